// Directions in which every row, or every column, of a matrix is divided by its norm.
//
// `lengths` adds up the squares of the estimate along each line, in the order of a vector of its own by tiles
// (src/reference/reduce.rs), and makes of each sum what the line is multiplied with; `divide` makes the estimate again, multiplies,
// writes momentum and updates the parameter. Two passes, because a line's norm needs all of it. A block for each 64 x 64 tile of
// each matrix: threads read and write along rows whichever way the lines run, and `lengths` turns the tile in shared memory.

#include "flat.cuh"
#include "update.cuh"

const u32 THREADS = 256;
const u32 SIDE = 64;  // of a tile: lines of a band, and elements of a block of a line
const u32 PARTS = THREADS / SIDE;

// A matrix whose lines are divided by their norms.
struct __align__(16) Lined {
    u64 rows, columns;
    u64 first_square;  // of its tiles, band by band: 64 each, one a line
    u64 first_factor;  // one a line
    u32 matrix;        // its gradient, momentum, segments
    u32 first_band;    // bands are 64 lines side by side
    u32 tiles;         // of a band
    u8 by_columns;     // the lines are columns
    u8 groups;         // whether four elements of a row lie at boundaries in every buffer
    u8 pad[2];
};
static_assert(sizeof(Lined) == 48, "the host writes 48 bytes a matrix");

// A tile of a matrix. Tiles are numbered along the lines first.
struct Place {
    u32 band, tile;
    u64 row, column;

    __device__ __forceinline__ Place(const Lined &l, u32 block) : band(block / l.tiles), tile(block % l.tiles) {
        const u64 across = (u64)band * SIDE, along = (u64)tile * SIDE;
        row = l.by_columns ? along : across, column = l.by_columns ? across : along;
    }
};

// What a block is told of its tile: in shared memory, for it is read with every row.
struct Told {
    Lined lined;
    Matrix matrix;
    Scalars scalars;
    Segment segment;  // the first of the matrix

    // Every thread of the block calls it.
    __device__ __forceinline__ void read(u32 index, const Lined *all, const Matrix *matrices, const Segment *segments,
                                         const Scalars *all_scalars) {
        if (threadIdx.x < 32) {
            copy_by_warp(lined, all[index]);
            copy_by_warp(matrix, matrices[lined.matrix]);
            copy_by_warp(scalars, all_scalars[matrix.first_segment]);
            if (segments) copy_by_warp(segment, segments[matrix.first_segment]);
        }
        __syncthreads();
    }
};

// Calls `body` with row and column in the tile of each N elements, and whether they are in the matrix.
template <u32 N, typename Body>
__device__ __forceinline__ void elements_of(const Lined &l, const Place &place, Body body) {
    const u32 across = SIDE / N, column = threadIdx.x % across * N;
    for (u32 row = threadIdx.x / across; row < SIDE; row += THREADS / across)
        body(row, column, place.row + row < l.rows && place.column + column < l.columns);
}

// The estimate of N elements of a row, and momentum as it is after it.
template <u32 N>
__device__ __forceinline__ Values<N> estimate_at(const Matrix &m, const Scalars &s, u64 row, u64 column) {
    Values<N> w = {};
    Bits gradient = bits_at<N>(m.gradient, m.type_gradient, row * m.gradient_stride + column), previous, momentum;
    if (m.previous) previous = bits_at<N>(m.previous, m.type_previous, row * m.previous_stride + column);
    if (m.momentum) momentum = bits_at<N>(m.momentum, m.type_momentum, row * m.columns + column);
    widen<N>(gradient, m.type_gradient, w.g);
    if (m.previous) widen<N>(previous, m.type_previous, w.previous);
    if (m.momentum) widen<N>(momentum, m.type_momentum, w.m);
    scale_gradients(s, w, m.previous);
    estimate(s, w);
    return w;
}

// The upper half is added to the lower until one number is left.
template <u32 COUNT>
__device__ __forceinline__ double halve(double *sums) {
    if constexpr (COUNT > 1) {
#pragma unroll
        for (u32 i = 0; i < COUNT / 2; i++) sums[i] = __dadd_rn(sums[i], sums[i + COUNT / 2]);
        return halve<COUNT / 2>(sums);
    }
    return sums[0];
}

// The squares of each line in the tile, pairwise at distances 32, 16, ..., 1. The first 64 threads have the sums.
__device__ __forceinline__ double squares_of(const Lined &l, const float (*tile)[SIDE + 1], double *shared) {
    const u32 line = threadIdx.x % SIDE, part = threadIdx.x / SIDE;
    // A thread has the elements `part`, `part` + 4, ... of a line.
    double sums[SIDE / PARTS];
#pragma unroll
    for (u32 k = 0; k < SIDE / PARTS; k++) {
        const u32 e = part + k * PARTS;
        sums[k] = square_of((double)(l.by_columns ? tile[e][line] : tile[line][e]));
    }
    shared[threadIdx.x] = halve<SIDE / PARTS>(sums);
    __syncthreads();
    if (part > 0) return 0.0;
    double parts[PARTS];
#pragma unroll
    for (u32 i = 0; i < PARTS; i++) parts[i] = shared[i * SIDE + line];
    return halve<PARTS>(parts);
}

const u32 TEAM = 16;  // threads that add up a line, 16 lanes each

// The squares of a band are all there: the sum of each line by 256 lanes, and what the line is multiplied with.
__device__ __forceinline__ void settle(const Lined &l, const Matrix &m, u32 band, const double *squares, double *shared,
                                       Divided *factors) {
    const u64 lines = l.by_columns ? l.columns : l.rows, first = (u64)band * SIDE;
    const double *const of_band = squares + l.first_square + first * l.tiles;
    const u32 member = threadIdx.x / TEAM;
#pragma unroll 1
    for (u32 base = 0; base < SIDE && first + base < lines; base += THREADS / TEAM) {
        const u32 line = base + threadIdx.x % TEAM;
        double lanes[LANES / TEAM] = {};
        for (u32 from = member; from < l.tiles; from += LANES)
#pragma unroll
            for (u32 k = 0; k < LANES / TEAM; k++) {
                const u32 t = from + k * TEAM;
                if (t < l.tiles) lanes[k] = __dadd_rn(lanes[k], of_band[(u64)t * SIDE + line]);
            }
        __syncthreads();
        shared[threadIdx.x] = halve<LANES / TEAM>(lanes);
        for (u32 distance = TEAM / 2; distance > 0; distance /= 2) {
            __syncthreads();
            if (member < distance)
                shared[threadIdx.x] = __dadd_rn(shared[threadIdx.x], shared[threadIdx.x + distance * TEAM]);
        }
        if (member == 0 && first + line < lines)
            factors[l.first_factor + first + line] = divide_by(__dsqrt_rn(shared[threadIdx.x]), m);
    }
}

template <u32 N>
__device__ __forceinline__ void fill(const Lined &l, const Matrix &m, const Scalars &s, const Place &place,
                                     float (*tile)[SIDE + 1]) {
    elements_of<N>(l, place, [&](u32 row, u32 column, bool there) {
        Values<N> w = {};
        if (there) w = estimate_at<N>(m, s, place.row + row, place.column + column);
#pragma unroll
        for (u32 i = 0; i < N; i++) tile[row][column + i] = w.g[i];
    });
}

// `looked` counts the tiles of each band that are there; it is zero between steps.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    lengths(const Lined *lined, const Task *tasks, const Matrix *matrices, const Scalars *scalars, double *squares,
            u32 *looked, Divided *factors) {
    __shared__ float tile[SIDE][SIDE + 1];
    __shared__ double shared[THREADS];
    __shared__ bool last;
    __shared__ Told told;
    const Task task = tasks[blockIdx.x];
    told.read(task.matrix, lined, matrices, nullptr, scalars);
    const Lined &l = told.lined;
    const Matrix &m = told.matrix;
    const Scalars &s = told.scalars;
    if (s.flags & SKIP) return;
    const Place place(l, task.block);
    l.groups ? fill<FOUR>(l, m, s, place, tile) : fill<1>(l, m, s, place, tile);
    __syncthreads();
    const double sum = squares_of(l, tile, shared);
    if (threadIdx.x < SIDE) squares[l.first_square + (u64)task.block * SIDE + threadIdx.x] = sum;
    // One thread tells of what all of them wrote.
    __threadfence();
    __syncthreads();
    u32 &count = looked[l.first_band + place.band];
    if (threadIdx.x == 0) last = arrive(&count) + 1 == l.tiles;
    __syncthreads();
    if (!last) return;
    settle(l, m, place.band, squares, shared, factors);
    if (threadIdx.x == 0) count = 0;
}

// Returns the squares of what the thread's elements moved by.
template <u32 N>
__device__ __forceinline__ double divide_tile(const Told &told, const Segment *segments, const Place &place,
                                            const Divided *of_lines) {
    const Lined &l = told.lined;
    const Matrix &m = told.matrix;
    const Scalars &s = told.scalars;
    double squares = 0.0;
    elements_of<N>(l, place, [&](u32 row, u32 column, bool there) {
        if (!there) return;
        const u64 r = place.row + row, c = place.column + column;
        const Segment &segment = m.segments > 1 ? segments[m.first_segment + r] : told.segment;
        const u64 from = (m.segments > 1 ? 0 : r * m.columns) + c;
        const Asked asked = ask_elements<N>(segment, from, false);
        const Values<N> w = estimate_at<N>(m, s, r, c);
        float u[N];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            const Divided &by = of_lines[l.by_columns ? column + i : row];
            u[i] = mul(mul(mul(w.g[i], by.first), by.second), by.inverse);
        }
        // Momentum is stored last: what the update reads need not wait for it.
        squares += update_elements<N>(segment, s, from, false, asked, u);
        if (m.momentum) {
            const u64 at = r * m.columns + c;
            const Dither dither = {(s.flags & STOCHASTIC) != 0, {segment.key[0], segment.key[1]}, s.step, 1,
                                   m.offset + at};
            put<N>((u8 *)m.momentum, m.type_momentum, at, w.m, dither);
        }
    });
    return squares;
}

// `moved`: where the squares of what each tile moves by go, where steps measure that.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    divide(const Lined *lined, const Task *tasks, const Matrix *matrices, const Segment *segments, const Scalars *scalars,
           const Divided *factors, double *moved) {
    __shared__ double of_warps[THREADS / 32];
    __shared__ Divided of_lines[SIDE];
    __shared__ Told told;
    const Task task = tasks[blockIdx.x];
    told.read(task.matrix, lined, matrices, segments, scalars);
    const Lined &l = told.lined;
    if (told.scalars.flags & SKIP) {
        if (moved && threadIdx.x == 0) moved[blockIdx.x] = 0.0;
        return;
    }
    const Place place(l, task.block);
    const u64 line = (l.by_columns ? place.column : place.row) + threadIdx.x;
    if (threadIdx.x < SIDE && line < (l.by_columns ? l.columns : l.rows)) of_lines[threadIdx.x] = factors[l.first_factor + line];
    __syncthreads();
    double squares =
        l.groups ? divide_tile<FOUR>(told, segments, place, of_lines) : divide_tile<1>(told, segments, place, of_lines);
    if (!moved) return;
    for (u32 d = 16; d > 0; d /= 2) squares = __dadd_rn(squares, __shfl_xor_sync(~0u, squares, d));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = squares;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 w = 1; w < THREADS / 32; w++) squares = __dadd_rn(squares, of_warps[w]);
    moved[blockIdx.x] = squares;
}
