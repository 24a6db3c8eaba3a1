// What comes before the products: momentum, the norm, and the normalised estimate in the layout that tensor cores read.
//
// `look` reads gradients and momentum, and adds up the squares of the estimate; `pack` reads them again, writes momentum, and
// the estimate over its norm in 16 bits. Two passes, because the scale of what is written in 16 bits has to be known before:
// after the first pass nothing of the old momentum would be left to make the estimate from again. A block for each 64 x 64
// tile of each matrix.

#include "flat.cuh"
#include "matrix.cuh"
#include "orthogonal.cuh"
#include "strips.cuh"

const u32 THREADS = 128;

// What a block is told of its matrix.
struct __align__(16) Told {
    Orthogonal o;
    Matrix m;
    Scalars s;
};

// Reads it, by the first warp for all.
__device__ __forceinline__ void tell(Told &told, const Orthogonal &o, const Matrix *matrices, const Scalars *scalars) {
    if (threadIdx.x < 32) {
        copy_by_warp(told.o, o);
        copy_by_warp(told.m, matrices[told.o.matrix]);
        copy_by_warp(told.s, scalars[told.m.first_segment]);
    }
    __syncthreads();
}

// A tile of a matrix. Tiles are numbered along the longer side first.
struct Place {
    u32 row, column;

    __device__ __forceinline__ Place(const Orthogonal &o, u32 tile) {
        const bool tall = o.rows > o.columns;
        const u32 across = padded(tall ? o.rows : o.columns) / STRIP;
        const u32 shorter = tile / across * STRIP, longer = tile % across * STRIP;
        row = tall ? longer : shorter, column = tall ? shorter : longer;
    }
};

// Calls `body` with row and column in the tile of each N elements, and with the estimate there: 0 beyond the edge.
template <u32 N, bool WRITES, typename Body>
__device__ __forceinline__ void estimates(const Orthogonal &o, const Matrix &m, const Segment *segments, const Scalars &s,
                                          const Place &place, Body body) {
    // Two rows at once: one alone leaves too few bytes under way.
    const u32 across = STRIP / N, apart = THREADS / across, AT_ONCE = N == 1 ? 1 : 2;
    const u32 column = threadIdx.x % across * N, c = place.column + column;
    const bool own_momentum = m.momentum && !o.lmo_first;
    for (u32 first = threadIdx.x / across; first < STRIP; first += AT_ONCE * apart) {
        Bits gradient[AT_ONCE], previous[AT_ONCE], momentum[AT_ONCE];
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            const u64 r = place.row + first + k * apart;
            if (r >= o.rows || c >= o.columns) continue;
            gradient[k] = bits_at<N>(m.gradient, m.type_gradient, r * m.gradient_stride + c);
            if (m.previous) previous[k] = bits_at<N>(m.previous, m.type_previous, r * m.previous_stride + c);
            if (own_momentum) momentum[k] = bits_at<N>(m.momentum, m.type_momentum, r * m.columns + c);
        }
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            const u32 row = first + k * apart;
            const u64 r = place.row + row;
            Values<N> w = {};
            if (r < o.rows && c < o.columns) {
                widen<N>(gradient[k], m.type_gradient, w.g);
                if (m.previous) widen<N>(previous[k], m.type_previous, w.previous);
                scale_gradients(s, w, m.previous);
                if (own_momentum) widen<N>(momentum[k], m.type_momentum, w.m);
                if (!o.lmo_first) estimate(s, w);
                if (WRITES && own_momentum) {
                    const Segment &t = segments[m.first_segment];
                    const u64 at = r * m.columns + c;
                    const Dither dither = {(s.flags & STOCHASTIC) != 0, {t.key[0], t.key[1]}, s.step, 1, m.offset + at};
                    put<N>((u8 *)m.momentum, m.type_momentum, at, w.m, dither);
                }
            }
            body(row, column, w.g);
        }
    }
}

// The squares of a tile's estimate: columns of the short-side-first matrix top to bottom, then pairwise.
template <u32 N>
__device__ __forceinline__ double squares_of(const Orthogonal &o, const Matrix &m, const Segment *segments, const Scalars &s,
                                             const Place &place, float (*tile)[STRIP + 1], double *sums) {
    const bool tall = o.rows > o.columns;
    estimates<N, false>(o, m, segments, s, place, [&](u32 row, u32 column, const float(&u)[N]) {
#pragma unroll
        for (u32 i = 0; i < N; i++) tall ? tile[column + i][row] = u[i] : tile[row][column + i] = u[i];
    });
    __syncthreads();
    if (threadIdx.x < STRIP) {
        double sum = 0.0;
#pragma unroll 16
        for (u32 row = 0; row < STRIP; row++) sum = __dadd_rn(sum, square_of((double)tile[row][threadIdx.x]));
        sums[threadIdx.x] = sum;
    }
    for (u32 distance = STRIP / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) sums[threadIdx.x] = __dadd_rn(sums[threadIdx.x], sums[threadIdx.x + distance]);
    }
    return sums[0];
}

// The tiles' squares are all there: their sum by 256 lanes, and what the estimate is multiplied with.
__device__ __forceinline__ void settle(const Orthogonal &o, const Matrix &m, const double *squares, double *lanes,
                                       Scalars *scalars) {
    for (u32 lane = threadIdx.x; lane < LANES; lane += THREADS) {
        double sum = 0.0;
#pragma unroll 4
        for (u32 t = lane; t < o.tiles; t += LANES) sum = __dadd_rn(sum, squares[o.first_square + t]);
        lanes[lane] = sum;
    }
    for (u32 distance = LANES / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) lanes[threadIdx.x] = __dadd_rn(lanes[threadIdx.x], lanes[threadIdx.x + distance]);
    }
    __syncthreads();
    const Divided by = divide_by(__dmul_rn(__dsqrt_rn(lanes[0]), o.margin), m);
    for (u32 k = threadIdx.x; k < m.segments; k += THREADS) {
        Scalars &s = scalars[m.first_segment + k];
        s.first = by.first, s.second = by.second, s.inverse = by.inverse;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 8)
    look(const Orthogonal *orthogonals, const Task *tasks, const Matrix *matrices, const Segment *segments, Scalars *scalars,
         double *squares, Progress *progress) {
    __shared__ float tile[STRIP][STRIP + 1];
    __shared__ double sums[LANES];
    __shared__ bool last;
    const Task task = tasks[blockIdx.x];
    __shared__ Told told;
    tell(told, orthogonals[task.matrix], matrices, scalars);
    const Orthogonal &o = told.o;
    const Matrix &m = told.m;
    const Scalars &s = told.s;
    if (s.flags & SKIP) return;
    const Place place(o, task.block);
    const double sum = o.groups ? squares_of<FOUR>(o, m, segments, s, place, tile, sums)
                                : squares_of<1>(o, m, segments, s, place, tile, sums);
    Progress &p = progress[task.matrix];
    if (threadIdx.x == 0) {
        squares[o.first_square + task.block] = sum;
        last = arrive(&p.looked) + 1 == o.tiles;
    }
    __syncthreads();
    if (!last) return;
    settle(o, m, squares, sums, scalars);
    if (threadIdx.x == 0) p.looked = p.failed = 0;
}

template <u32 N, bool HALF>
__device__ __forceinline__ void pack_tile(const Orthogonal &o, const Matrix &m, const Segment *segments, const Scalars &s,
                                          const Place &place) {
    u8 *const square = o.strips + square_at(padded(o.rows), place.row, place.column);
    estimates<N, true>(o, m, segments, s, place, [&](u32 row, u32 column, const float(&u)[N]) {
        float x[N];
#pragma unroll
        for (u32 i = 0; i < N; i++) x[i] = mul(mul(mul(u[i], s.first), s.second), s.inverse);
        u8 *const to = square + chunk_at(row, column / 8) + column % 8 * 2;
        if (N == 1)
            *(u16 *)to = (u16)pack_two<HALF>(x[0], 0.0f);
        else
            st_8(to, pack_two<HALF>(x[0], x[1 % N]), pack_two<HALF>(x[2 % N], x[3 % N]));
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 7)
    pack(const Orthogonal *orthogonals, const Task *tasks, const Matrix *matrices, const Segment *segments,
         const Scalars *scalars) {
    const Task task = tasks[blockIdx.x];
    __shared__ Told told;
    tell(told, orthogonals[task.matrix], matrices, scalars);
    const Orthogonal &o = told.o;
    const Matrix &m = told.m;
    const Scalars &s = told.s;
    if (s.flags & SKIP) return;
    const Place place(o, task.block);
    if (o.groups)
        o.half ? pack_tile<FOUR, true>(o, m, segments, s, place) : pack_tile<FOUR, false>(o, m, segments, s, place);
    else
        o.half ? pack_tile<1, true>(o, m, segments, s, place) : pack_tile<1, false>(o, m, segments, s, place);
}
