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
template <bool WHOLE>
__device__ __forceinline__ void add_group(const Pair &p, u64 at, u32 lo, u32 hi, float scale, bool fresh, bool together) {
    Raw ra = WHOLE ? load<true>(p.addend, p.type_addend, at, together) : load_some(p.addend, p.type_addend, at, lo, hi);
    Raw rs = {};
    if (!fresh) rs = WHOLE ? load<false>(p.sum, p.type_sum, at, together) : load_some(p.sum, p.type_sum, at, lo, hi);
    float a[GROUP], s[GROUP] = {};
    widen(WHOLE ? arrived(ra, p.type_addend, together) : ra, p.type_addend, a);
    if (!fresh) widen(WHOLE ? arrived(rs, p.type_sum, together) : rs, p.type_sum, s);
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        const float scaled = __fmul_rn(scale, a[i]);
        s[i] = fresh ? scaled : __fadd_rn(s[i], scaled);
    }
    const Raw out = narrow(s, p.type_sum, Dither{});
    WHOLE ? store(p.sum, p.type_sum, at, out, together) : store_some(p.sum, p.type_sum, at, out, lo, hi);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    accumulate(const Pair *pairs, const Chunk *chunks, u32 count, float scale, u32 fresh) {
    for (u32 c = blockIdx.x; c < count; c += gridDim.x) {
        const Pair p = pairs[chunks[c].segment];
        if (!p.addend) continue;
        const u64 from = chunks[c].chunk * CHUNK;
        const u64 before = (GROUP - p.shift) % GROUP;
        const u64 end = p.numel + before;
        const u64 stop = from + CHUNK < end ? from + CHUNK : end;
        for (u64 warp = from + threadIdx.x / 32 * 32 * GROUP; warp < stop; warp += THREADS * GROUP) {
            const u64 at = warp + lane_id() * GROUP;
            if (at >= end) continue;
            const bool together = p.aligned && warp >= before && warp + 32 * GROUP <= end;
            const u32 lo = at < before ? (u32)(before - at) : 0;
            const u32 hi = end - at < GROUP ? (u32)(end - at) : GROUP;
            if (p.aligned && lo == 0 && hi == GROUP)
                add_group<true>(p, at - before, 0, GROUP, scale, fresh, together);
            else
                add_group<false>(p, at - before, lo, hi, scale, fresh, false);
        }
    }
}
