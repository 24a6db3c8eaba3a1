// A thread's elements of a buffer: 8 of them, 16 bytes of a 16-bit type and twice that of f32; or a single one, where there is
// no boundary of 16 bytes or fewer than 8 are left. N is 8 or 1 throughout. NARROW: the type is
// known not to be f32.
#pragma once

#include "table.cuh"

const u32 GROUP = 8;

struct Raw {
    uint4 low, high;
};

template <bool NARROW = false>
__device__ __forceinline__ u64 bytes_of(u8 type) {
    return !NARROW && type == F32 ? 4 : 2;
}

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
// then exchange what belongs to the other: lanes below 16 hold the first halves, those above the second ones. So with N = 8
// all lanes of a warp are here, side by side.
struct Places {
    int first, second;  // bytes from the lane's own place
};

__device__ __forceinline__ Places places() { return lane_id() < 16 ? Places{0, 512} : Places{16 - 512, 16}; }

// The bits of N elements from `at` on. ONCE: nobody writes them while the kernel runs.
template <u32 N, bool ONCE, bool NARROW = false>
__device__ __forceinline__ Raw load(const u8 *p, u8 type, u64 at) {
    const u8 *from = p + at * bytes_of<NARROW>(type);
    if (N == 1) return {{type == F32 ? *(const u32 *)from : *(const u16 *)from, 0, 0, 0}, {}};
    if (NARROW || type != F32) return {ONCE ? ld_once(from) : ld_16(from), {}};
    const Places place = places();
    uint4 a = ONCE ? ld_once(from + place.first) : ld_16(from + place.first);
    uint4 b = ONCE ? ld_once(from + place.second) : ld_16(from + place.second);
    return {a, b};  // not exchanged yet: nothing is used before all loads are under way
}

template <u32 N, bool NARROW = false>
__device__ __forceinline__ Raw arrived(const Raw &raw, u8 type) {
    if (N == 1 || NARROW || type != F32) return raw;
    const bool lower = lane_id() < 16;
    const uint4 other = from_other_half(choose(lower, raw.high, raw.low));
    return {choose(lower, raw.low, other), choose(lower, other, raw.high)};
}

template <u32 N, bool NARROW = false>
__device__ __forceinline__ void widen(const Raw &raw, u8 type, float (&out)[N]) {
    const u32 w[8] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w, raw.high.x, raw.high.y, raw.high.z, raw.high.w};
    if (!NARROW && type == F32) {
#pragma unroll
        for (u32 i = 0; i < N; i++) out[i] = __uint_as_float(w[i]);
    } else if (type == BF16) {
#pragma unroll
        for (u32 i = 0; i < N; i++) out[i] = __uint_as_float(i % 2 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
    } else {
#pragma unroll
        for (u32 i = 0; i < N; i++) out[i] = from_f16((u16)(w[i / 2] >> (i % 2 * 16)));
    }
}

// Philox4x32-10 (Salmon et al., SC 2011): what random bits come from.
__device__ uint4 philox(uint4 c, uint2 k) {
#pragma unroll 1
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

// To bf16, up or down at random: 16 random bits are added below the kept ones, which are then cut off.
__device__ __forceinline__ u32 dithered(float v, u32 random) {
    return isfinite(v) ? (__float_as_uint(v) + (random & 0xffff)) >> 16 : bf16x2(v, 0.0f) & 0xffff;
}

__device__ __forceinline__ u32 word_of(const uint4 &words, u32 lane) {
    return lane < 2 ? (lane ? words.y : words.x) : (lane == 2 ? words.z : words.w);
}

// N elements to bf16 at random. Each call of the generator makes the words of 4 elements that begin at a multiple of 4; 8
// elements lie in 3 such runs at most. One run at a time: all at once would cost registers that every other path then lacks.
template <u32 N>
__device__ __forceinline__ void narrow_at_random(const float (&v)[N], const Dither &d, u32 (&w)[8]) {
    const u32 skipped = (u32)d.index % 4;
#pragma unroll 1
    for (u32 run = 0; run * 4 < skipped + N; run++) {
        const u64 q = d.index / 4 + run;
        const uint4 words = philox({(u32)q, (u32)(q >> 32), d.step, d.buffer}, d.key);
#pragma unroll
        for (u32 i = 0; i < N; i++)
            if ((skipped + i) / 4 == run) w[i / 2] |= dithered(v[i], word_of(words, (skipped + i) % 4)) << (i % 2 * 16);
    }
}

template <u32 N, bool NARROW = false>
__device__ __forceinline__ Raw narrow(const float (&v)[N], u8 type, const Dither &dither) {
    u32 w[8] = {};
    if (!NARROW && type == F32) {
#pragma unroll
        for (u32 i = 0; i < N; i++) w[i] = __float_as_uint(v[i]);
    } else if (dither.on && type == BF16) {
        narrow_at_random<N>(v, dither, w);
    } else {
#pragma unroll
        for (u32 i = 0; i < N; i += 2) {
            const float second = i + 1 < N ? v[i + 1] : 0.0f;
            w[i / 2] = type == BF16 ? bf16x2(v[i], second) : f16x2(v[i], second);
        }
    }
    return {{w[0], w[1], w[2], w[3]}, {w[4], w[5], w[6], w[7]}};
}

template <u32 N, bool NARROW = false>
__device__ __forceinline__ void store(u8 *p, u8 type, u64 at, const Raw &raw) {
    u8 *to = p + at * bytes_of<NARROW>(type);
    if (N == 1) {
        if (type == F32)
            *(u32 *)to = raw.low.x;
        else
            *(u16 *)to = (u16)raw.low.x;
        return;
    }
    if (NARROW || type != F32) return st_16(to, raw.low);
    const Places place = places();
    // The exchange is its own inverse but for which half is sent.
    const bool lower = lane_id() < 16;
    const uint4 other = from_other_half(choose(lower, raw.high, raw.low));
    st_16(to + place.first, choose(lower, raw.low, other));
    st_16(to + place.second, choose(lower, other, raw.high));
}

// An f32 master in two halves: a bf16 parameter, which is its nearest, and the low 16 bits, which complete it. Exact both
// ways; NaN becomes the one NaN.
template <u32 N>
__device__ __forceinline__ void join(const Raw &high, const Raw &low, float (&out)[N]) {
    const u32 h[4] = {high.low.x, high.low.y, high.low.z, high.low.w};
    const u32 l[4] = {low.low.x, low.low.y, low.low.z, low.low.w};
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const u32 top = h[i / 2] >> (i % 2 * 16) << 16;
        const int rest = (int)(short)(u16)(l[i / 2] >> (i % 2 * 16));
        out[i] = __uint_as_float(top + (u32)rest);
    }
}

template <u32 N>
__device__ __forceinline__ void split(const float (&v)[N], Raw &high, Raw &low) {
    u32 h[4] = {}, l[4] = {};
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const u32 bits = __float_as_uint(v[i]);
        const bool nan = isnan(v[i]);
        const u32 top = nan ? 0x7fc0u | (bits >> 31 << 15) : (bits + 0x8000) >> 16;
        h[i / 2] |= top << (i % 2 * 16);
        l[i / 2] |= (nan ? 0 : bits & 0xffff) << (i % 2 * 16);
    }
    high.low = {h[0], h[1], h[2], h[3]};
    low.low = {l[0], l[1], l[2], l[3]};
}
