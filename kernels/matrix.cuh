// Four neighbouring elements of a row of a matrix, or a single one: what a thread has of a tile. Four of f32 are 16 bytes, four
// of a 16-bit type 8, so that 16 threads side by side fill whole sectors of memory with either.
#pragma once

#include "rules.cuh"

const u32 FOUR = 4;

// N elements as they lie in memory. They are made numbers only after the loads of all that a thread needs are under way: behind
// each load there would be a wait.
struct Bits {
    u32 w[4];
};

template <u32 N>
__device__ __forceinline__ Bits bits_at(const u8 *p, u8 type, u64 at) {
    Bits b = {};
    if (type == F32) {
        if (N == 1) {
            b.w[0] = ((const u32 *)p)[at];
        } else {
            // As an instruction: of a plain load the compiler makes two.
            const uint4 q = ld_16((const float *)p + at);
            b.w[0] = q.x, b.w[1] = q.y, b.w[2] = q.z, b.w[3] = q.w;
        }
    } else if (N == 1) {
        b.w[0] = ((const u16 *)p)[at];
    } else {
        const uint2 q = *(const uint2 *)((const u16 *)p + at);
        b.w[0] = q.x, b.w[1] = q.y;
    }
    return b;
}

template <u32 N>
__device__ __forceinline__ void widen(const Bits &b, u8 type, float (&v)[N]) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const u16 half = (u16)(b.w[i / 2] >> i % 2 * 16);
        v[i] = type == F32 ? __uint_as_float(b.w[i]) : type == BF16 ? from_bf16(half) : from_f16(half);
    }
}

// The bits of N elements of a 16-bit type or of f32.
template <u32 N>
__device__ __forceinline__ void put_bits(u8 *p, u8 type, u64 at, const Raw &raw) {
    if (type == F32) {
        if (N == 1)
            ((u32 *)p)[at] = raw.low.x;
        else
            st_16((float *)p + at, raw.low);
        return;
    }
    if (N == 1)
        ((u16 *)p)[at] = (u16)raw.low.x;
    else
        st_8((u16 *)p + at, raw.low.x, raw.low.y);
}

template <u32 N>
__device__ __forceinline__ void put(u8 *p, u8 type, u64 at, const float (&v)[N], const Dither &dither) {
    put_bits<N>(p, type, at, narrow<N>(v, type, dither));
}
