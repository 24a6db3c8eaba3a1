// Micro-batches: gradients added up before a step, all tensors in one launch.

#include "vector.cuh"

const u64 CHUNK = 16384;
const u32 THREADS = 128;

struct __align__(16) Pair {
    u8 *sum;
    const u8 *addend;  // null: nothing is added
    u64 numel;
    u8 type_sum, type_addend, shift, aligned;
    u8 pad[4];
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
    accumulate(const Pair *pairs, const Chunk *chunks, u32 count, float scale, u32 fresh) {
    for (u32 c = blockIdx.x; c < count; c += gridDim.x) {
        const Chunk chunk = chunks[c];
        const Pair p = pairs[chunk.segment];
        if (!p.addend) continue;
        const u64 from = chunk.chunk * CHUNK;
        const u64 before = (GROUP - p.shift) % GROUP;
        const u64 end = p.numel + before;
        const u64 stop = from + CHUNK < end ? from + CHUNK : end;
        for (u64 warp = from + threadIdx.x / 32 * 32 * GROUP; warp < stop; warp += THREADS * GROUP) {
            if (p.aligned && warp >= before && warp + 32 * GROUP <= end) {
                add_to<GROUP>(p, warp + lane_id() * GROUP - before, scale, fresh);
                continue;
            }
            for (u64 e = warp + lane_id(); e < warp + 32 * GROUP && e < end; e += 32)
                if (e >= before) add_to<1>(p, e - before, scale, fresh);
        }
    }
}
