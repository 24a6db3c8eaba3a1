// Decay, scale and update of a matrix's parameter with its direction: what the kernels that take whole matrices end with.
#pragma once

#include "matrix.cuh"

// N elements of a row from `column` on, with their direction. Returns the squares of what they moved by.
template <u32 N>
__device__ __forceinline__ float update_elements(const Row &row, const Scalars &s, u64 column, bool lmo_first, float (&u)[N]) {
    const Segment &t = *row.segment;
    const u64 at = row.start + column;
    const bool low = t.type_full == LOW, full = t.full, random = s.flags & STOCHASTIC;
    auto dither = [&](bool on, u32 buffer) { return Dither{on, {t.key[0], t.key[1]}, s.step, buffer, t.index + at}; };
    Values<N> w = {};
    for (u32 i = 0; i < N; i++) w.g[i] = u[i];
    if (lmo_first && t.momentum) {
        get<N>(t.momentum, t.type_momentum, at, w.m);
        estimate(s, w);
        put<N>(t.momentum, t.type_momentum, at, w.m, dither(random, 1));
    }
    if (low) {
        u16 high[N], rest[N];
        for (u32 i = 0; i < N; i++) high[i] = ((const u16 *)t.visible)[at + i], rest[i] = ((const u16 *)t.full)[at + i];
        for (u32 i = 0; i < N; i++) w.x[i] = __uint_as_float(((u32)high[i] << 16) + (u32)(int)(short)rest[i]);
    } else if (full) {
        get<N>(t.full, t.type_full, at, w.x);
    } else {
        get<N>(t.visible, t.type_visible, at, w.x);
    }
    float before[N];
    for (u32 i = 0; i < N; i++) before[i] = w.x[i];
    Scalars given = s;
    given.flags |= NORMALISED;
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
    if (s.flags & EXTRAPOLATED)
        put<N>(t.visible, t.type_visible, at, w.y, dither(false, 0));
    else
        put<N>(t.visible, t.type_visible, at, w.x, dither(random && !full, 0));
    return squares;
}
