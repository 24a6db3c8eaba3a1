// A tile of a product on tensor cores: 128 x 128 of the result by 4 warps, a quarter (64 x 64) each.
//
// Operands come in pieces of 64 terms through a ring of stages in shared memory, copied while earlier pieces are multiplied.
// Results are made of whole 16 x 8 blocks: what lies above the diagonal of a symmetric result, or beyond its edge, is not
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

    __device__ __forceinline__ Quarter(const Job &job, const Tile &tile) {
        const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
        half_row = warp / 2, half_column = warp % 2;
        row = tile.row * TILE + half_row * STRIP, column = tile.column * TILE + half_column * STRIP;
        diagonal = job.symmetric && row == column;
        there = row < job.m && column < job.n && !(job.symmetric && column > row);
        rows = there ? min(STRIP, job.m - row + 15) / 16 : 0;
        columns = there ? min(STRIP, job.n - column + 7) / 8 : 0;
        whole = there && rows == 4 && columns == 8;
    }

    // Blocks of 8 columns that are computed beside the rows' block `i`.
    __device__ __forceinline__ u32 beside(u32 i) const {
        return i >= rows ? 0 : diagonal ? min(columns, 2 * i + 2) : columns;
    }
};

// Where a thread's four copies of a square begin, 512 bytes apart: a warp copies 2 KB, since what the instruction adds to
// addresses of global memory has 12 bits.
__device__ __forceinline__ u32 own_copies() {
    static_assert(THREADS * 64 == SQUARE_BYTES, "four copies of 16 bytes by each thread");
    return threadIdx.x / 32 * 2048 + threadIdx.x % 32 * 16;
}

// Where a thread's copies of an operand come from, whose terms lie in its columns or in its rows.
template <bool TERMS_IN_COLUMNS>
struct Source {
    // In shared memory: loaded for each copy, since no register is left for them.
    const u8 *const &operand;
    const u32 &rows;
    u32 at;     // in 16 bytes: the next piece
    bool both;  // whether the operand reaches into the second half

    // `first`: where the tile begins in the direction that terms do not lie in.
    __device__ __forceinline__ Source(const u8 *const &operand, const u32 &extent, const u32 &terms, u32 first)
        : operand(operand), rows(TERMS_IN_COLUMNS ? extent : terms) {
        // A square of 64 rows by 64 columns is contiguous.
        at = (u32)((TERMS_IN_COLUMNS ? square_at(padded(rows), first, 0) : square_at(padded(rows), 0, first)) / 16) +
             own_copies() / 16;
        both = padded(extent) - first > STRIP;
    }

    // Copies half of the next piece to shared memory, where `wanted`.
    template <u32 HALF>
    __device__ __forceinline__ void fetch(u32 to, bool wanted) {
        const u32 along = HALF ? padded(rows) * (STRIP_BYTES / 16) : 0, across = SQUARE_BYTES / 16;
        const u32 half = HALF ? TERMS_IN_COLUMNS ? across : along : 0;
        copy_async_4_if<512>(wanted && (!HALF || both), to + HALF * SQUARE_BYTES + own_copies(),
                             operand + (u64)(at + half) * 16);
        if (HALF) at += TERMS_IN_COLUMNS ? along : across;
    }
};

// The ring of stages: the operands' pieces of 64 terms.
template <bool LEFT, bool RIGHT>
struct Ring {
    Source<LEFT> lefts;
    Source<RIGHT> rights;
    u32 shared;
    bool same;  // on the diagonal of a a^T both operands are the same rows

    // The next piece goes to a stage, where there is one.
    __device__ __forceinline__ void fetch_left(u32 stage, bool there) {
        lefts.template fetch<0>(shared + stage, there);
        lefts.template fetch<1>(shared + stage, there);
    }

    __device__ __forceinline__ void fetch_right(u32 stage, bool there) {
        rights.template fetch<0>(shared + stage + PIECE, there && !same);
        rights.template fetch<1>(shared + stage + PIECE, there && !same);
        commit_copies();
    }

    // The next piece is there, and everybody has left the one before it behind: its stage may be filled.
    __device__ __forceinline__ void next() {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
    }
};

__device__ __forceinline__ u32 stage_after(u32 stage) { return stage == (STAGES - 1) * STAGE ? 0 : stage + STAGE; }
__device__ __forceinline__ u32 stage_before(u32 stage) { return stage == 0 ? (STAGES - 1) * STAGE : stage - STAGE; }

// What a warp multiplies in a step: 64 rows and 64 columns by 16 terms.
struct Fragments {
    u32 left[4][4], right[4][4];
};

// Where a lane reads 16 rows by 16 terms, and 16 columns by 16 terms: those of the first 16 and the first step.
template <bool TERMS_IN_COLUMNS>
__device__ __forceinline__ u32 left_at(u32 square) {
    const u32 lane = threadIdx.x % 32;
    return square + (TERMS_IN_COLUMNS ? chunk_at(lane % 16, lane / 16) : chunk_at(lane % 8 + lane / 16 * 8, lane / 8 % 2));
}

template <bool TERMS_IN_COLUMNS>
__device__ __forceinline__ u32 right_at(u32 square) {
    return left_at<!TERMS_IN_COLUMNS>(square);
}

// The others lie 16 rows of shared memory further on, or two chunks, which are permuted by an exclusive or.
const u32 DOWN = 16 * STRIP_BYTES, ACROSS = 32;

template <bool TERMS_IN_COLUMNS>
__device__ __forceinline__ void load_fragments(u32 (&r)[4][4], u32 first, u32 step) {
    if (TERMS_IN_COLUMNS) {
        const u32 at = first ^ step * ACROSS;
        load_matrices<0>(r[0], at);
        load_matrices<DOWN>(r[1], at);
        load_matrices<2 * DOWN>(r[2], at);
        load_matrices<3 * DOWN>(r[3], at);
    } else {
        const u32 at = first + step * DOWN;
#pragma unroll
        for (u32 block = 0; block < 4; block++) load_transposed(r[block], at ^ block * ACROSS);
    }
}

template <bool LEFT, bool RIGHT>
__device__ __forceinline__ void load_step(Fragments &f, u32 left, u32 right, u32 step) {
    load_fragments<LEFT>(f.left, left, step);
    load_fragments<RIGHT>(f.right, right, step);
}

// Multiplies a step of a whole quarter, or of one on the diagonal, of which only what begins on or below it is wanted.
template <bool HALF, bool LOWER>
__device__ __forceinline__ void multiply_step(Sums &sums, const Fragments &f) {
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < (LOWER ? 2 * i + 2 : 8); j++)
            multiply_add<HALF>(sums.of[i][j], f.left[i], f.right[j / 2][j % 2 * 2], f.right[j / 2][j % 2 * 2 + 1]);
}

// Multiplies what there is of a step of a quarter at an edge. What lies beyond the edge is zero or, of rows, anything, and is
// loaded in vain.
template <bool HALF>
__device__ __forceinline__ void multiply_edge(Sums &sums, const Quarter &q, const Fragments &f) {
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (j < q.beside(i))
                multiply_add<HALF>(sums.of[i][j], f.left[i], f.right[j / 2][j % 2 * 2], f.right[j / 2][j % 2 * 2 + 1]);
}

// The whole pieces of a whole quarter. A step's fragments are loaded while the step before is multiplied, across the pieces,
// and copies are begun between them: what a warp waits for is under way for as long as 32 multiplications take. `terms`: that are
// left, which is all that the loop counts, since it has every register.
template <bool HALF, bool LEFT, bool RIGHT, bool LOWER>
__device__ __forceinline__ void multiply_pieces(Sums &sums, Ring<LEFT, RIGHT> &ring, u32 left, u32 right, u32 &terms,
                                                u32 &stage) {
    Fragments f[2];
    ring.next();
    load_step<LEFT, RIGHT>(f[0], left, right, 0);
    for (; terms >= STRIP; terms -= STRIP) {
#pragma unroll
        for (u32 step = 0; step < 4; step++) {
            if (step < 3) {
                load_step<LEFT, RIGHT>(f[(step + 1) % 2], left + stage, right + stage, step + 1);
            } else {
                if (terms > STRIP) ring.next();
                // Behind the last one the same again, in vain: a branch around the loads would keep them apart from what is
                // multiplied meanwhile.
                const u32 from = terms >= 2 * STRIP ? stage_after(stage) : stage;
                load_step<LEFT, RIGHT>(f[0], left + from, right + from, 0);
                stage = stage_after(stage);
            }
            if (step == 0) ring.fetch_left(stage_before(stage), terms > (STAGES - 1) * STRIP);
            if (step == 1) ring.fetch_right(stage_before(stage), terms > (STAGES - 1) * STRIP);
            multiply_step<HALF, LOWER>(sums, f[step % 2]);
        }
    }
}

// The sums of a tile. Every thread of the block calls it.
template <bool HALF, bool LEFT, bool RIGHT>
__device__ __forceinline__ void multiply(Sums &sums, const Job &job, const Tile &tile, u32 shared) {
    const Quarter q(job, tile);
    u32 terms = job.k, stage = 0;
    Ring<LEFT, RIGHT> ring = {{job.a, job.m, job.k, tile.row * TILE},
                              {job.b, job.n, job.k, tile.column * TILE},
                              shared,
                              LEFT == RIGHT && tile.row == tile.column && job.a == job.b};
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; i++)
        ring.fetch_left(i * STAGE, terms > i * STRIP), ring.fetch_right(i * STAGE, terms > i * STRIP);
    const u32 left = left_at<LEFT>(shared + q.half_row * SQUARE_BYTES);
    const u32 right = right_at<RIGHT>(shared + (ring.same ? 0 : PIECE) + q.half_column * SQUARE_BYTES);
    bool waited = false;
    if (q.whole && terms >= STRIP) {
        LEFT == RIGHT && q.diagonal ? multiply_pieces<HALF, LEFT, RIGHT, true>(sums, ring, left, right, terms, stage)
                                    : multiply_pieces<HALF, LEFT, RIGHT, false>(sums, ring, left, right, terms, stage);
        waited = true;
    }
    // Quarters at an edge, and the last terms.
    for (; terms > 0; terms -= min(terms, STRIP), stage = stage_after(stage)) {
        if (!waited) {
            ring.next();
            ring.fetch_left(stage_before(stage), terms > (STAGES - 1) * STRIP);
            ring.fetch_right(stage_before(stage), terms > (STAGES - 1) * STRIP);
        }
        waited = false;
        for (u32 step = 0; q.there && step * 16 < min(STRIP, terms); step++) {
            Fragments f;
            load_step<LEFT, RIGHT>(f, left + stage, right + stage, step);
            multiply_edge<HALF>(sums, q, f);
        }
    }
    wait_for_copies<0>();
    __syncthreads();
}

// Calls `body` with the row and the column, in the quarter, of each pair of elements that a thread has, and with them.
template <typename Body>
__device__ __forceinline__ void pairs(Sums &sums, Body body) {
    const u32 lane = lane_now();
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
    for (u32 i = lane_now(); i < SQUARE_BYTES / 16; i += 32) ((uint4 *)to)[i] = ld_16(from + i * 16);
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
    const u32 lane = lane_now();
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
