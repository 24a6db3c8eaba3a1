// Four neighbouring elements of a row of a matrix, or a single one: what a thread has of a tile. Four of f32 are 16 bytes, four
// of a 16-bit type 8, so that 16 threads side by side fill whole sectors of memory with either.
#pragma once

#include "rules.cuh"

const u32 FOUR = 4;

template <u32 N>
__device__ __forceinline__ void get(const u8 *p, u8 type, u64 at, float (&v)[N]) {
    if (type == F32) {
        const float *from = (const float *)p + at;
        if (N == 1) {
            v[0] = *from;
        } else {
            // As an instruction: of a plain load the compiler makes two.
            const uint4 q = ld_16(from);
            v[0] = __uint_as_float(q.x), v[1 % N] = __uint_as_float(q.y);
            v[2 % N] = __uint_as_float(q.z), v[3 % N] = __uint_as_float(q.w);
        }
        return;
    }
    const u16 *from = (const u16 *)p + at;
    u16 bits[N];
    if (N == 1) {
        bits[0] = *from;
    } else {
        const uint2 q = *(const uint2 *)from;
        bits[0] = (u16)q.x, bits[1 % N] = (u16)(q.x >> 16), bits[2 % N] = (u16)q.y, bits[3 % N] = (u16)(q.y >> 16);
    }
    if (type == BF16) {
#pragma unroll
        for (u32 i = 0; i < N; i++) v[i] = from_bf16(bits[i]);
    } else {
#pragma unroll
        for (u32 i = 0; i < N; i++) v[i] = from_f16(bits[i]);
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

// Which segment a row belongs to, and where the row begins in it.
struct Row {
    const Segment *segment;
    u64 start;

    __device__ __forceinline__ Row(const Segment *segments, const Matrix &m, u32 row)
        : segment(segments + m.first_segment + (m.segments > 1 ? row : 0)),
          start(m.segments > 1 ? 0 : row * m.columns) {}
    __device__ __forceinline__ Row(const Segment *segment, u64 start) : segment(segment), start(start) {}
};
