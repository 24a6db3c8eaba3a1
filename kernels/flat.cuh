// The flat order of sums, as src/reference/reduce.rs has it: blocks of 4,096 elements, a warp each.
#pragma once

#include "vector.cuh"

const u64 BLOCK = 4096;
const u32 ROW = 256;  // elements that a warp takes at once, 8 a lane
const u32 LANES = 256;

__device__ __forceinline__ double square_of(double x) { return __dmul_rn(x, x); }

// The column sums of a warp: lane l has those of columns 8 l to 8 l + 7.
struct Columns {
    double sums[GROUP];

    __device__ __forceinline__ void add(const float (&v)[GROUP]) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) sums[i] = __dadd_rn(sums[i], square_of((double)v[i]));
    }

    // Pairwise at distances 128, 64, ..., 1; the same in every lane.
    __device__ __forceinline__ double total() {
#pragma unroll
        for (u32 distance = 16; distance > 0; distance /= 2)
#pragma unroll
            for (u32 i = 0; i < GROUP; i++) sums[i] = __dadd_rn(sums[i], __shfl_xor_sync(~0u, sums[i], distance));
#pragma unroll
        for (u32 distance = GROUP / 2; distance > 0; distance /= 2)
#pragma unroll
            for (u32 i = 0; i < distance; i++) sums[i] = __dadd_rn(sums[i], sums[i + distance]);
        return sums[0];
    }
};

// A warp copies a structure to where it is read often: from global memory that would be traffic beside the tensors'.
template <typename T>
__device__ __forceinline__ void copy_by_warp(T &to, const T &from) {
    __syncwarp();
    for (u32 i = lane_id(); i < sizeof(T) / 16; i += 32) ((uint4 *)&to)[i] = ((const uint4 *)&from)[i];
    __syncwarp();
}

// The sums of the first 256 threads pairwise; every thread of the block calls it and has the total.
__device__ __forceinline__ double total_of_lanes(double *shared, double mine) {
    __syncthreads();
    if (threadIdx.x < LANES) shared[threadIdx.x] = mine;
    __syncthreads();
    for (u32 distance = LANES / 2; distance > 0; distance /= 2) {
        if (threadIdx.x < distance) shared[threadIdx.x] = __dadd_rn(shared[threadIdx.x], shared[threadIdx.x + distance]);
        __syncthreads();
    }
    return shared[0];
}

const u32 WARPS = LANES / 32;  // of a block with a thread for each lane
const u32 FEW = 2048;          // numbers that a warp adds up; more take all warps of a block

// The sums of 256 lanes by one warp, 8 lanes a thread, pairwise as above; every thread has the total. For many short lists: a
// set of 10,000 small tensors is some 10,000 additions and nothing to wait for. `get`: the number with an index.
template <typename Get>
__device__ __forceinline__ double total_by_warp(u32 count, Get get) {
    double lanes[WARPS] = {};
    for (u32 from = 0; from < count; from += LANES)
#pragma unroll
        for (u32 k = 0; k < WARPS; k++) {
            const u32 t = from + 32 * k + lane_id();
            if (t < count) lanes[k] = __dadd_rn(lanes[k], get(t));
        }
#pragma unroll
    for (u32 distance = WARPS / 2; distance > 0; distance /= 2)
#pragma unroll
        for (u32 k = 0; k < distance; k++) lanes[k] = __dadd_rn(lanes[k], lanes[k + distance]);
    for (u32 d = 16; d > 0; d /= 2) lanes[0] = __dadd_rn(lanes[0], __shfl_xor_sync(~0u, lanes[0], d));
    return lanes[0];
}

// Where element `e` of a matrix with gaps between its rows is.
__device__ __forceinline__ u64 place_of(u64 e, u64 columns, u64 stride) {
    return columns == stride ? e : e / columns * stride + e % columns;
}

// 8 elements of a matrix from `e` on, of which the first `count` are there; the others are 0. `aligned`: where they begin, and
// `row`: a whole row, by all lanes. They go through the first-level cache, as `elementwise` reads gradients: past it cost that
// kernel 2 % of the copy rate on an H200.
__device__ __forceinline__ void elements(const u8 *p, u8 type, u64 e, u32 count, u64 columns, u64 stride, bool aligned,
                                         bool row, float (&v)[GROUP]) {
    // Lanes exchange halves of f32; of 16-bit types each has its own.
    if (aligned && (row || (type != F32 && count == GROUP)))
        return widen<GROUP>(arrived<GROUP>(load<GROUP, false>(p, type, e), type), type, v);
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i >= count) {
            v[i] = 0.0f;
            continue;
        }
        const u64 at = place_of(e + i, columns, stride);
        v[i] = type == F32    ? ((const float *)p)[at]
               : type == BF16 ? from_bf16(((const u16 *)p)[at])
                              : from_f16(((const u16 *)p)[at]);
    }
}

// 2^e. Beyond the range of double it comes in two factors, as in the reference.
__device__ __forceinline__ double power_of_two(int e) {
    const int ordinary = max(-1022, min(1023, e)), rest = max(-100, min(100, e - ordinary));
    auto exactly = [](int e) { return __longlong_as_double((long long)(e + 1023) << 52); };
    return __dmul_rn(exactly(ordinary), exactly(rest));
}

__device__ __forceinline__ int exponent_of(double x) {
    const u64 bits = (u64)__double_as_longlong(x);
    const int biased = (int)(bits >> 52 & 0x7ff);
    return biased == 0 ? 63 - __clzll((long long)bits) - 1074 : biased - 1023;
}

// x * first * second * inverse is x over a divisor, which may lie beyond the range of f32: its mantissa in [1, 2), whose inverse
// is rounded once, and a power of two in two exact factors.
struct Divided {
    float first, second, inverse;
};

// By a norm, guarded by the matrix's eps. Nothing is divided by zero.
__device__ __forceinline__ Divided divide_by(double divisor, const Matrix &m) {
    if (m.eps != 0.0 && !isnan(divisor)) divisor = m.eps_added ? __dadd_rn(divisor, m.eps) : fmax(divisor, m.eps);
    if (!isfinite(divisor)) return {1.0f, 1.0f, __uint_as_float(0x7fffffff)};
    if (divisor == 0.0) return {1.0f, 1.0f, 1.0f};
    const int inner = exponent_of(divisor);
    return {(float)power_of_two(-inner / 2), (float)power_of_two(-inner - -inner / 2),
            (float)__ddiv_rn(1.0, __dmul_rn(divisor, power_of_two(-inner)))};
}
