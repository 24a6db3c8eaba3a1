// A tile of a product on tensor cores: 128 x 128 of the result by 4 warps, a quarter (64 x 64) each.
//
// Operands come in pieces of 64 terms through a ring of stages in shared memory, copied while earlier pieces are multiplied.
// Results are made of whole 8 x 16 blocks: what lies above the diagonal of a symmetric result, or beyond its edge, is not
// computed.
#pragma once

#include "orthogonal.cuh"
#include "strips.cuh"

const u32 THREADS = 128;
const u32 TILE = 128;
const u32 PIECE = 2 * SQUARE_BYTES;  // of an operand: 128 rows by 64 terms, or 64 terms by 128 columns
const u32 STAGES = 3;
const u32 STAGE = 2 * PIECE;
const u32 PRODUCT_SHARED = STAGES * STAGE;

// A quarter's result: 4 x 8 blocks of 16 x 8, of which each thread has two elements in each half.
struct Sums {
    float of[4][8][4];
};

// Where a warp's quarter lies, and which of its blocks there are.
struct Quarter {
    u32 row, column;       // in the result
    u32 half_row, half_column;  // in the tile, in halves
    bool there;            // whether there is anything to compute
    bool whole;
    u32 rows, columns;     // blocks of 16 and of 8
    bool diagonal;

    __device__ __forceinline__ Quarter(const Job &job, u32 tile_row, u32 tile_column) {
        const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
        half_row = warp / 2, half_column = warp % 2;
        row = tile_row * TILE + half_row * STRIP, column = tile_column * TILE + half_column * STRIP;
        diagonal = job.symmetric && row == column;
        there = row < job.m && column < job.n && !(job.symmetric && column > row);
        rows = there ? min(STRIP, job.m - row + 15) / 16 : 0;
        columns = there ? min(STRIP, job.n - column + 7) / 8 : 0;
        whole = there && !diagonal && rows == 4 && columns == 8;
    }

    // Blocks of 8 columns that are computed beside the rows' block `i`.
    __device__ __forceinline__ u32 beside(u32 i) const {
        return i >= rows ? 0 : diagonal ? min(columns, 2 * i + 2) : columns;
    }
};

// Copies what lies at `first` of an operand, whose terms lie in its rows or columns, to shared memory.
template <bool TERMS_IN_COLUMNS>
__device__ __forceinline__ void fetch(u32 to, const u8 *p, u32 extent, u32 terms, u32 first, u32 piece) {
    const u32 there = min(TILE, padded(extent) - first);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (half * STRIP >= there) break;
        // A square of 64 rows by 64 columns is contiguous.
        const u64 at = TERMS_IN_COLUMNS ? square_at(padded(extent), first + half * STRIP, piece * STRIP)
                                        : square_at(padded(terms), piece * STRIP, first + half * STRIP);
#pragma unroll
        for (u32 i = 0; i < SQUARE_BYTES / (THREADS * 16); i++) {
            const u32 offset = (threadIdx.x + i * THREADS) * 16;
            copy_async_16(to + half * SQUARE_BYTES + offset, p + at + offset);
        }
    }
}

// 16 rows by 16 terms, where terms lie in columns or rows of the square in shared memory.
template <bool TERMS_IN_COLUMNS>
__device__ __forceinline__ void left(u32 (&r)[4], u32 square, u32 block, u32 step) {
    const u32 lane = threadIdx.x % 32;
    if (TERMS_IN_COLUMNS)
        load_matrices(r, square + chunk_at(block * 16 + lane % 16, step * 2 + lane / 16));
    else
        load_transposed(r, square + chunk_at(step * 16 + lane % 8 + lane / 16 * 8, block * 2 + lane / 8 % 2));
}

// 16 terms by two blocks of 8 columns.
template <bool TERMS_IN_COLUMNS>
__device__ __forceinline__ void right(u32 (&r)[4], u32 square, u32 pair, u32 step) {
    const u32 lane = threadIdx.x % 32;
    if (TERMS_IN_COLUMNS)
        load_matrices(r, square + chunk_at(pair * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
    else
        load_transposed(r, square + chunk_at(step * 16 + lane % 16, pair * 2 + lane / 16));
}

// Multiplies a piece: `steps` times 16 terms.
template <bool HALF, bool LEFT, bool RIGHT, bool WHOLE>
__device__ __forceinline__ void multiply_piece(Sums &sums, const Quarter &q, u32 a, u32 b, u32 steps) {
#pragma unroll
    for (u32 step = 0; step < 4; step++) {
        if (step >= steps) break;
        u32 lefts[4][4];
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            if (WHOLE || i < q.rows) left<LEFT>(lefts[i], a, i, step);
#pragma unroll
        for (u32 pair = 0; pair < 4; pair++) {
            if (!WHOLE && 2 * pair >= q.columns) break;
            u32 rights[4];
            right<RIGHT>(rights, b, pair, step);
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 2; j++)
                    if (WHOLE || 2 * pair + j < q.beside(i))
                        multiply_add<HALF>(sums.of[i][2 * pair + j], lefts[i], rights[2 * j], rights[2 * j + 1]);
        }
    }
}

// The sums of a tile. Every thread of the block calls it.
template <bool HALF, bool LEFT, bool RIGHT>
__device__ __forceinline__ void multiply(Sums &sums, const Job &job, const Quarter &q, u32 tile_row, u32 tile_column,
                                         u32 shared) {
    const u32 pieces = (job.k + STRIP - 1) / STRIP;
    // On the diagonal of a a^T both operands are the same rows.
    const bool same = job.a == job.b && LEFT == RIGHT && tile_row == tile_column;
    auto begin = [&](u32 piece) {
        const u32 stage = shared + piece % STAGES * STAGE;
        if (piece < pieces) {
            fetch<LEFT>(stage, job.a, job.m, job.k, tile_row * TILE, piece);
            if (!same) fetch<RIGHT>(stage + PIECE, job.b, job.n, job.k, tile_column * TILE, piece);
        }
        commit_copies();
    };
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; i++) begin(i);
    for (u32 piece = 0; piece < pieces; piece++) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        // Into the stage that everybody has left behind.
        begin(piece + STAGES - 1);
        const u32 a = shared + piece % STAGES * STAGE + q.half_row * SQUARE_BYTES;
        const u32 b = shared + piece % STAGES * STAGE + (same ? 0 : PIECE) + q.half_column * SQUARE_BYTES;
        const u32 steps = min(4u, (job.k - piece * STRIP + 15) / 16);
        if (q.whole)
            multiply_piece<HALF, LEFT, RIGHT, true>(sums, q, a, b, steps);
        else if (q.there)
            multiply_piece<HALF, LEFT, RIGHT, false>(sums, q, a, b, steps);
    }
    wait_for_copies<0>();
    __syncthreads();
}

// Calls `body` with the row and the column, in the quarter, of each pair of elements that a thread has, and with them.
template <typename Body>
__device__ __forceinline__ void pairs(Sums &sums, Body body) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                body(i * 16 + half * 8 + lane / 4, j * 8 + lane % 4 * 2, sums.of[i][j][2 * half],
                     sums.of[i][j][2 * half + 1]);
}

// A square of 64 x 64 between global memory and a warp's part of shared memory.
__device__ __forceinline__ void square_to_shared(u8 *to, const u8 *from) {
    __syncwarp();
#pragma unroll 4
    for (u32 i = threadIdx.x % 32; i < SQUARE_BYTES / 16; i += 32) ((uint4 *)to)[i] = ld_16(from + i * 16);
    __syncwarp();
}

// Adds `factor` times a square of another matrix.
template <bool HALF>
__device__ __forceinline__ void add_square(Sums &sums, const u8 *square, float factor) {
    pairs(sums, [&](u32 row, u32 column, float &first, float &second) {
        const u32 two = *(const u32 *)(square + chunk_at(row, column / 8) + column % 8 * 2);
        first = __fadd_rn(first, __fmul_rn(factor, low_of<HALF>(two)));
        second = __fadd_rn(second, __fmul_rn(factor, high_of<HALF>(two)));
    });
}

// A quarter's shares of the traces of the powers of a symmetric matrix r, of which it has the square in `sums` and itself in
// `square`. Where only the lower triangle is there its elements stand for two.
template <bool HALF>
__device__ __forceinline__ Traces traces_of(Sums &sums, const u8 *square, const Quarter &q) {
    float power[4] = {};
    pairs(sums, [&](u32 row, u32 column, float first, float second) {
        const u32 two = *(const u32 *)(square + chunk_at(row, column / 8) + column % 8 * 2);
        auto take = [&](u32 at, float r, float r2) {
            if (q.diagonal && at > row) return;
            const float times = q.diagonal && at == row ? 1.0f : 2.0f;
            if (q.diagonal && at == row) power[0] = __fadd_rn(power[0], r);
            power[1] = __fadd_rn(power[1], __fmul_rn(__fmul_rn(times, r), r));
            power[2] = __fadd_rn(power[2], __fmul_rn(__fmul_rn(times, r), r2));
            power[3] = __fadd_rn(power[3], __fmul_rn(__fmul_rn(times, r2), r2));
        };
        take(column, low_of<HALF>(two), first);
        take(column + 1, high_of<HALF>(two), second);
    });
    Traces t;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        t.power[i] = power[i];
        for (u32 d = 16; d > 0; d /= 2) t.power[i] = __dadd_rn(t.power[i], __shfl_xor_sync(~0u, t.power[i], d));
    }
    return t;
}

// The epilogue of a product in the working type: alpha, what is added, the diagonal. `own`: a warp's 16 KB of shared memory.
template <bool HALF>
__device__ __forceinline__ void combine(Sums &sums, const Job &job, const Quarter &q, u8 *own, Traces &traces) {
    const u64 at = square_at(padded(job.m), q.row, q.column);
    if (job.c) {
        square_to_shared(own, job.c + at);
        if (job.guards) traces = traces_of<HALF>(sums, own, q);
    }
    if (job.alpha != 1.0f)
        pairs(sums, [&](u32, u32, float &first, float &second) {
            first = __fmul_rn(first, job.alpha), second = __fmul_rn(second, job.alpha);
        });
    if (job.c) add_square<HALF>(sums, own, job.beta);
    if (job.c2) {
        square_to_shared(own, job.c2 + at);
        add_square<HALF>(sums, own, job.beta2);
    }
    if (job.gamma != 0.0f && q.row == q.column)
        pairs(sums, [&](u32 row, u32 column, float &first, float &second) {
            if (q.row + row >= job.m) return;
            if (row == column) first = __fadd_rn(first, job.gamma);
            if (row == column + 1) second = __fadd_rn(second, job.gamma);
        });
}

// Writes a quarter to the result, and its mirror image where the result is symmetric. `own`: a warp's 16 KB.
template <bool HALF>
__device__ __forceinline__ void store_quarter(Sums &sums, const Job &job, const Quarter &q, u8 *own) {
    const u32 lane = threadIdx.x % 32;
    u8 *const mirror = own + SQUARE_BYTES;
    __syncwarp();
    pairs(sums, [&](u32 row, u32 column, float first, float second) {
        *(u32 *)(own + chunk_at(row, column / 8) + column % 8 * 2) = pack_two<HALF>(first, second);
    });
    __syncwarp();
    if (job.symmetric) {
        // 8 x 8 blocks, four of a column at a time, become those of a row.
        for (u32 i = 0; i < 16; i++) {
            const u32 column = i / 2, first = i % 2 * 4;
            u32 r[4];
            load_transposed(r, shared_address(own) + chunk_at((first + lane / 8) * 8 + lane % 8, column));
#pragma unroll
            for (u32 k = 0; k < 4; k++)
                *(u32 *)(mirror + chunk_at(column * 8 + lane / 4, first + k) + lane % 4 * 4) = r[k];
        }
        __syncwarp();
    }
    u8 *const to = job.d + square_at(padded(job.m), q.row, q.column);
    if (q.diagonal) {
        // Below the diagonal what was computed, above it the mirror image.
        for (u32 i = lane; i < SQUARE_BYTES / 16; i += 32) {
            const u32 row = i / 8, chunk = i % 8 ^ row % 8;
            const uint4 lower = ((const uint4 *)own)[i], upper = ((const uint4 *)mirror)[i];
            const u32 from_lower = chunk < row / 8 ? 8 : chunk > row / 8 ? 0 : row % 8 + 1;
            u32 l[4] = {lower.x, lower.y, lower.z, lower.w}, u[4] = {upper.x, upper.y, upper.z, upper.w};
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                const u32 mask = (2 * k < from_lower ? 0xffffu : 0) | (2 * k + 1 < from_lower ? 0xffff0000u : 0);
                l[k] = (l[k] & mask) | (u[k] & ~mask);
            }
            st_16(to + i * 16, {l[0], l[1], l[2], l[3]});
        }
        return;
    }
    for (u32 i = lane; i < SQUARE_BYTES / 16; i += 32) st_16(to + i * 16, ((const uint4 *)own)[i]);
    if (!job.symmetric) return;
    u8 *const mirrored = job.d + square_at(padded(job.m), q.column, q.row);
    for (u32 i = lane; i < SQUARE_BYTES / 16; i += 32) st_16(mirrored + i * 16, ((const uint4 *)mirror)[i]);
}
