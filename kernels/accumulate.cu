// Micro-batches: gradients added up before a step, all tensors in one launch.

#include "flat.cuh"

const u64 CHUNK = 1024;  // elements that a warp takes in one go
const u32 THREADS = 128;

struct __align__(16) Pair {
    u8 *sum;
    const u8 *addend;  // null: nothing is added
    u64 numel;
    u8 type_sum, type_addend, shift, aligned;
    u32 first_chunk;
};
static_assert(sizeof(Pair) == 32, "the host writes 32 bytes a pair");

// sum = sum + scale * addend, or scale * addend for the first of a batch; two roundings, and one to the sum's type.
template <u32 N>
__device__ __forceinline__ void add_to(const Pair &p, u64 at, float scale, bool fresh) {
    Raw ra = load<N, true>(p.addend, p.type_addend, at), rs = {};
    if (!fresh) rs = load<N, false>(p.sum, p.type_sum, at);
    float a[N], s[N] = {};
    widen<N>(arrived<N>(ra, p.type_addend), p.type_addend, a);
    if (!fresh) widen<N>(arrived<N>(rs, p.type_sum), p.type_sum, s);
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const float scaled = __fmul_rn(scale, a[i]);
        s[i] = fresh ? scaled : __fadd_rn(s[i], scaled);
    }
    store<N>(p.sum, p.type_sum, at, narrow<N>(s, p.type_sum, Dither{}));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    accumulate(const Pair *pairs, const u32 *owners, u32 count, float scale, u32 fresh) {
    __shared__ Pair pairs_of_warps[THREADS / 32];
    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    Pair &p = pairs_of_warps[warp];
    u32 loaded = ~0u;
    for (u32 c = blockIdx.x * (THREADS / 32) + warp; c < count; c += gridDim.x * (THREADS / 32)) {
        const u32 pair = __shfl_sync(~0u, lane_id() == 0 ? owners[c] : 0, 0);
        if (pair != loaded) copy_by_warp(p, pairs[pair]);
        loaded = pair;
        const u64 before = (GROUP - p.shift) % GROUP;
        const u64 end = p.numel + before;
        u64 row = (c - p.first_chunk) * CHUNK;
        const u64 stop = row + CHUNK < end ? row + CHUNK : end;
        if (p.aligned && row >= before)
#pragma unroll 2
            for (; row + 32 * GROUP <= stop; row += 32 * GROUP)
                add_to<GROUP>(p, row + lane_id() * GROUP - before, scale, fresh);
        for (u64 e = row + lane_id(); e < stop; e += 32)
            if (e >= before) add_to<1>(p, e - before, scale, fresh);
    }
}
