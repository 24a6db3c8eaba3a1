// 8 elements of a buffer at a time: 16 bytes of a 16-bit type, twice that of f32.
#pragma once

#include "table.cuh"

const u32 GROUP = 8;  // elements a thread takes at once

struct Raw {
    uint4 low, high;
};

__device__ __forceinline__ u64 bytes_of(u8 type) { return type == F32 ? 4 : 2; }

__device__ __forceinline__ u32 lane_id() { return threadIdx.x % 32; }

__device__ __forceinline__ uint4 choose(bool first, uint4 a, uint4 b) {
    return {first ? a.x : b.x, first ? a.y : b.y, first ? a.z : b.z, first ? a.w : b.w};
}

// What the lane 16 further (or before) has.
__device__ __forceinline__ uint4 from_other_half(uint4 v) {
    return {__shfl_xor_sync(~0u, v.x, 16), __shfl_xor_sync(~0u, v.y, 16), __shfl_xor_sync(~0u, v.z, 16),
            __shfl_xor_sync(~0u, v.w, 16)};
}

// 8 elements of 4 bytes are two accesses of 16 bytes. Were each lane to make its own two, either instruction would touch
// half of every 32-byte sector; so the first takes the warp's first 512 bytes and the second the rest, and lanes 16 apart
// then exchange what belongs to the other: lanes below 16 hold the first halves, those above the second ones.
// TOGETHER: all lanes of the warp are here, side by side.
struct Places {
    int first, second;  // bytes from the lane's own place
};

__device__ __forceinline__ Places places(bool together) {
    if (!together) return {0, 16};
    return lane_id() < 16 ? Places{0, 512} : Places{16 - 512, 16};
}

__device__ __forceinline__ Raw exchange(bool together, uint4 a, uint4 b) {
    if (!together) return {a, b};
    const bool lower = lane_id() < 16;
    uint4 other = from_other_half(choose(lower, b, a));
    return {choose(lower, a, other), choose(lower, other, b)};
}

// The bits of 8 elements. ONCE: nobody writes them while the kernel runs.
template <bool ONCE>
__device__ __forceinline__ Raw load(const u8 *p, u8 type, u64 at, bool together) {
    const u8 *from = p + at * bytes_of(type);
    if (type != F32) return {ONCE ? ld_once(from) : ld_16(from), {}};
    const Places place = places(together);
    uint4 a = ONCE ? ld_once(from + place.first) : ld_16(from + place.first);
    uint4 b = ONCE ? ld_once(from + place.second) : ld_16(from + place.second);
    return {a, b};  // not exchanged yet: nothing is used before all loads are under way
}

__device__ __forceinline__ Raw arrived(const Raw &raw, u8 type, bool together) {
    return type == F32 ? exchange(together, raw.low, raw.high) : raw;
}

// The same one by one, those from `lo` to `hi`: heads, tails, buffers without a common boundary.
__device__ __forceinline__ Raw load_some(const u8 *p, u8 type, u64 at, u32 lo, u32 hi) {
    u32 words[8] = {};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i < lo || i >= hi) continue;
        if (type == F32)
            words[i] = ((const u32 *)p)[at + i];
        else
            words[i / 2] |= (u32)((const u16 *)p)[at + i] << (i % 2 * 16);
    }
    return {{words[0], words[1], words[2], words[3]}, {words[4], words[5], words[6], words[7]}};
}

__device__ __forceinline__ void widen(const Raw &raw, u8 type, float (&out)[GROUP]) {
    const u32 w[8] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w, raw.high.x, raw.high.y, raw.high.z, raw.high.w};
    if (type == F32) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) out[i] = __uint_as_float(w[i]);
    } else if (type == BF16) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) out[i] = from_bf16((u16)(w[i / 2] >> (i % 2 * 16)));
    } else {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) out[i] = from_f16((u16)(w[i / 2] >> (i % 2 * 16)));
    }
}

// Philox4x32-10 (Salmon et al., SC 2011): what random bits come from.
__device__ uint4 philox(uint4 c, uint2 k) {
#pragma unroll
    for (u32 i = 0; i < 10; i++) {
        u32 low = __umulhi(c.x, 0xd2511f53u), high = __umulhi(c.z, 0xcd9e8d57u);
        c = {high ^ c.y ^ k.x, c.z * 0xcd9e8d57u, low ^ c.w ^ k.y, c.x * 0xd2511f53u};
        k = {k.x + 0x9e3779b9u, k.y + 0xbb67ae85u};
    }
    return c;
}

// What is random about a store: nothing, or a stream of bits that depends on parameter, step, buffer and element.
struct Dither {
    bool on;
    uint2 key;
    u32 step, buffer;
    u64 index;  // of the group's first element in its parameter
};

// To bf16, up or down at random.
__device__ __forceinline__ u32 dithered(float v, const Dither &d, u32 i) {
    if (!isfinite(v)) return bf16x2(v, 0.0f) & 0xffff;
    u64 at = d.index + i;
    uint4 words = philox({(u32)(at / 4), (u32)(at / 4 >> 32), d.step, d.buffer}, d.key);
    u32 lane = at % 4;
    u32 random = (lane < 2 ? (lane ? words.y : words.x) : (lane == 2 ? words.z : words.w)) & 0xffff;
    return (__float_as_uint(v) + random) >> 16;
}

__device__ __forceinline__ Raw narrow(const float (&v)[GROUP], u8 type, const Dither &dither) {
    u32 w[8] = {};
    if (type == F32) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) w[i] = __float_as_uint(v[i]);
    } else if (dither.on && type == BF16) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i += 2)
            w[i / 2] = dithered(v[i], dither, i) | dithered(v[i + 1], dither, i + 1) << 16;
    } else {
#pragma unroll
        for (u32 i = 0; i < GROUP; i += 2)
            w[i / 2] = type == BF16 ? bf16x2(v[i], v[i + 1]) : f16x2(v[i], v[i + 1]);
    }
    return {{w[0], w[1], w[2], w[3]}, {w[4], w[5], w[6], w[7]}};
}

__device__ __forceinline__ void store(u8 *p, u8 type, u64 at, const Raw &raw, bool together) {
    u8 *to = p + at * bytes_of(type);
    if (type != F32) return st_16(to, raw.low);
    const Places place = places(together);
    // The exchange is its own inverse but for which half is sent.
    const bool lower = lane_id() < 16;
    uint4 a = raw.low, b = raw.high;
    if (together) {
        uint4 other = from_other_half(choose(lower, raw.high, raw.low));
        a = choose(lower, raw.low, other);
        b = choose(lower, other, raw.high);
    }
    st_16(to + place.first, a);
    st_16(to + place.second, b);
}

__device__ __forceinline__ void store_some(u8 *p, u8 type, u64 at, const Raw &raw, u32 lo, u32 hi) {
    const u32 w[8] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w, raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i < lo || i >= hi) continue;
        if (type == F32)
            ((u32 *)p)[at + i] = w[i];
        else
            ((u16 *)p)[at + i] = (u16)(w[i / 2] >> (i % 2 * 16));
    }
}

// An f32 master in two halves: a bf16 parameter, which is its nearest, and the low 16 bits, which complete it. Exact both
// ways; NaN becomes the one NaN.
__device__ __forceinline__ void join(const Raw &high, const Raw &low, float (&out)[GROUP]) {
    const u32 h[4] = {high.low.x, high.low.y, high.low.z, high.low.w};
    const u32 l[4] = {low.low.x, low.low.y, low.low.z, low.low.w};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        const u32 top = h[i / 2] >> (i % 2 * 16) << 16;
        const int rest = (int)(short)(u16)(l[i / 2] >> (i % 2 * 16));
        out[i] = __uint_as_float(top + (u32)rest);
    }
}

__device__ __forceinline__ void split(const float (&v)[GROUP], Raw &high, Raw &low) {
    u32 h[4] = {}, l[4] = {};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        const u32 bits = __float_as_uint(v[i]);
        const bool nan = isnan(v[i]);
        const u32 top = nan ? 0x7fc0u | (bits >> 31 << 15) : (bits + 0x8000) >> 16;
        h[i / 2] |= top << (i % 2 * 16);
        l[i / 2] |= (nan ? 0 : bits & 0xffff) << (i % 2 * 16);
    }
    high.low = {h[0], h[1], h[2], h[3]};
    low.low = {l[0], l[1], l[2], l[3]};
}
