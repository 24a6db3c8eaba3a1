// 16-bit matrices of the work space, as the tensor cores' kernels read them.
//
// Columns are cut into strips of 64; a strip's rows lie one after the other, 128 bytes each, and the eight 16-byte chunks of a
// row are permuted by its number. So every tile that a product reads is one or two contiguous pieces of memory, goes to shared
// memory as it is, and can be read there by rows and by columns without bank conflicts. Rows and columns are padded to 64 with
// zeros, which change nothing in a product.
#pragma once

#include "ptx.cuh"

const u32 STRIP = 64;
const u32 STRIP_BYTES = 2 * STRIP;              // of a row of a strip
const u32 SQUARE_BYTES = STRIP * STRIP_BYTES;  // of 64 rows

__device__ __forceinline__ u32 padded(u32 extent) { return (extent + STRIP - 1) / STRIP * STRIP; }

// Where 64 rows of a strip begin, in bytes. `rows` is padded.
__device__ __forceinline__ u64 square_at(u32 rows, u32 row, u32 column) {
    return ((u64)(column / STRIP) * rows + row) * STRIP_BYTES;
}

// Where chunk `chunk` of row `row` lies in 64 columns.
__device__ __forceinline__ u32 chunk_at(u32 row, u32 chunk) { return row * STRIP_BYTES + ((chunk ^ row % 8) * 16); }

// Two elements, the first in the low half.
template <bool HALF>
__device__ __forceinline__ u32 pack_two(float low, float high) {
    return HALF ? f16x2(low, high) : bf16x2(low, high);
}

template <bool HALF>
__device__ __forceinline__ float low_of(u32 two) {
    return HALF ? from_f16((u16)two) : __uint_as_float(two << 16);
}

template <bool HALF>
__device__ __forceinline__ float high_of(u32 two) {
    return HALF ? from_f16((u16)(two >> 16)) : __uint_as_float(two & 0xffff0000u);
}
