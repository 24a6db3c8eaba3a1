// Decay, scale and update of a matrix's parameter with its direction: what the kernels that take whole matrices end with.
#pragma once

#include "matrix.cuh"

// What a thread reads of elements before it updates them.
struct Asked {
    Bits x, low, m;
};

// Whether a matrix is updated as most are: by code that fits in a loop's registers many times over.
__device__ __forceinline__ bool is_usual(const Segment &t, const Scalars &s, bool lmo_first) {
    return !lmo_first && t.type_full != LOW && !(s.flags & (CAUTIOUS | EXTRAPOLATED | STOCHASTIC));
}

template <u32 N, bool USUAL = false>
__device__ __forceinline__ Asked ask_elements(const Segment &t, u64 at, bool lmo_first) {
    const bool low = !USUAL && t.type_full == LOW, full = t.full && !low;
    Asked a;
    a.x = bits_at<N>(full ? t.full : t.visible, full ? t.type_full : t.type_visible, at);
    if (low) a.low = bits_at<N>(t.full, BF16, at);
    if (!USUAL && lmo_first && t.momentum) a.m = bits_at<N>(t.momentum, t.type_momentum, at);
    return a;
}

// N elements of a segment from `at` on, with their direction. Returns the squares of what they moved by.
template <u32 N, bool USUAL = false>
__device__ __forceinline__ float update_elements(const Segment &t, const Scalars &s, u64 at, bool lmo_first, const Asked &asked,
                                                 const float (&u)[N]) {
    const u32 flags = USUAL ? s.flags & DECAYS : s.flags;
    const bool low = !USUAL && t.type_full == LOW, full = t.full, random = flags & STOCHASTIC;
    auto dither = [&](bool on, u32 buffer) { return Dither{on, {t.key[0], t.key[1]}, s.step, buffer, t.index + at}; };
    Values<N> w = {};
    for (u32 i = 0; i < N; i++) w.g[i] = u[i];
    if (!USUAL && lmo_first && t.momentum) {
        widen<N>(asked.m, t.type_momentum, w.m);
        estimate(s, w);
        put<N>(t.momentum, t.type_momentum, at, w.m, dither(random, 1));
    }
    if (low) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            const u32 high = asked.x.w[i / 2] >> i % 2 * 16 << 16;
            w.x[i] = __uint_as_float(high + (u32)(int)(short)(asked.low.w[i / 2] >> i % 2 * 16));
        }
    } else {
        widen<N>(asked.x, full ? t.type_full : t.type_visible, w.x);
    }
    float before[N];
    for (u32 i = 0; i < N; i++) before[i] = w.x[i];
    Scalars given = s;
    given.flags = flags | NORMALISED;
    given.first = given.second = given.inverse = 1.0f;  // the direction is one already
    apply(given, w);
    float squares = 0.0f;
    for (u32 i = 0; i < N; i++) squares = add(squares, mul(sub(w.x[i], before[i]), sub(w.x[i], before[i])));
    if (low) {
        Raw high, rest;
        split<N>(w.x, high, rest);
        put_bits<N>(t.visible, BF16, at, high);
        put_bits<N>(t.full, BF16, at, rest);
        return squares;
    }
    if (full) put<N>(t.full, t.type_full, at, w.x, dither(false, 0));
    if (flags & EXTRAPOLATED)
        put<N>(t.visible, t.type_visible, at, w.y, dither(false, 0));
    else
        put<N>(t.visible, t.type_visible, at, w.x, dither(random && !full, 0));
    return squares;
}
