// Products of Newton-Schulz iterations on tensor cores through mma.sync: every card from compute capability 8.0 on.
//
// One launch takes a phase of the iterations of a whole list of matrices, whatever their shapes: a block for each tile. The
// last product of a matrix updates its parameter in place. Before that the guard has looked at the traces of powers of the
// matrix's Gram matrix: where the result would leave its bound, the last product does nothing and a launch at the end runs the
// safe iteration.

#include "product.cuh"
#include "update.cuh"

// What the kernels of a phase read.
struct Lists {
    const Job *jobs;
    const Orthogonal *orthogonals;
    const Matrix *matrices;
    const Segment *segments;
    const Scalars *scalars;
    Progress *progress;
    Traces *traces;
    Status *status;  // of a whole step
    double *moved;   // the squares of what tiles moved by, where steps measure that
    double *duals;   // and the products of what is orthogonalised with its direction
};

const u32 PITCH = 72;  // floats of a row of a quarter in shared memory: rows 4 apart lie in other banks
const u32 OWN = STRIP * PITCH * 4;  // a warp's part of shared memory after the products
static_assert(4 * OWN <= PRODUCT_SHARED && OWN >= 2 * SQUARE_BYTES, "epilogues take the place of the stages");

// A quarter of the last product updates its part of the parameter. Returns the squares of what it moved by. USUAL: the matrix
// is one segment, and has nothing that few have.
template <u32 N, bool USUAL>
__device__ __forceinline__ double update_quarter(const float *own, const Lists &l, const Job &job, const Quarter &q) {
    const Orthogonal &o = l.orthogonals[job.orthogonal];
    const Matrix &m = l.matrices[o.matrix];
    const Segment *const segments = l.segments + m.first_segment;
    // In registers, of which there are many by now: two warps of a scheduler do not hide that descriptions are read again for
    // each group of elements, nor that each group waits for its loads. That took as long as the product of 2,048 terms before.
    const Scalars s = l.scalars[m.first_segment];
    const Segment told = segments[0];
    const bool lmo_first = !USUAL && o.lmo_first, by_rows = !USUAL && m.segments > 1;
    const u64 columns = by_rows ? 0 : m.columns;
    auto segment_of = [&](u32 row) -> const Segment & { return USUAL ? told : segments[by_rows ? row : 0]; };
    double squares = 0.0;
    const u32 AT_ONCE = USUAL ? 4 : 1, ACROSS = STRIP / N;
#pragma unroll 1
    for (u32 first = lane_now(); first < STRIP * ACROSS; first += AT_ONCE * 32) {
        Asked asked[AT_ONCE];
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            const u32 i = first + k * 32, row = q.row + i / ACROSS, column = q.column + i % ACROSS * N;
            if (row < job.m && column < job.n)
                asked[k] = ask_elements<N, USUAL>(segment_of(row), row * columns + column, lmo_first);
        }
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            const u32 i = first + k * 32, row = q.row + i / ACROSS, column = q.column + i % ACROSS * N;
            if (row >= job.m || column >= job.n) continue;
            float u[N];
#pragma unroll
            for (u32 j = 0; j < N; j++) u[j] = own[i / ACROSS * PITCH + i % ACROSS * N + j];
            squares += update_elements<N, USUAL>(segment_of(row), s, row * columns + column, lmo_first, asked[k], u);
        }
    }
    for (u32 d = 16; d > 0; d /= 2) squares = __dadd_rn(squares, __shfl_xor_sync(~0u, squares, d));
    return squares;
}

// The inner product of a quarter of the direction with what was orthogonalised, whose strips are there to the end.
template <bool HALF>
__device__ __forceinline__ double dual_of(const float *own, const Lists &l, const Job &job, const Quarter &q) {
    const Orthogonal &o = l.orthogonals[job.orthogonal];
    const u8 *square = o.strips + square_at(padded(o.rows), q.row, q.column);
    double sum = 0.0;
    for (u32 i = lane_now(); i < SQUARE_BYTES / 16; i += 32) {
        const u32 row = i / 8, column = (i % 8 ^ row % 8) * 8;
        const uint4 m = ld_16(square + i * 16);
        const u32 twos[4] = {m.x, m.y, m.z, m.w};
        const float *u = own + row * PITCH + column;
        float products = 0.0f;
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            products = add(products, mul(low_of<HALF>(twos[k]), u[2 * k]));
            products = add(products, mul(high_of<HALF>(twos[k]), u[2 * k + 1]));
        }
        sum += products;
    }
    for (u32 d = 16; d > 0; d /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
    // The strips are over the norm.
    const Scalars &s = l.scalars[l.matrices[o.matrix].first_segment];
    return sum / ((double)s.first * s.second * s.inverse);
}

// Whether the squares of the result stay within their limit, from the traces of r, r^2, r^3 and r^4: with the singular values
// s of what the last iteration gets, r has s^2, and the result s (a + b s^2 + c s^4). The trace of r^5 is at least
// trace(r^4)^2 / trace(r^3), and nearly that where all s are about 1, or one is by far the largest.
__device__ bool stays(const Job &job, const Traces &t) {
    const double a = job.polynomial[0], b = job.polynomial[1], c = job.polynomial[2];
    const double fifth = t.power[2] > 0.0 ? t.power[3] * t.power[3] / t.power[2] : 0.0;
    const double factors[5] = {__dmul_rn(a, a), __dmul_rn(2.0, __dmul_rn(a, b)),
                               __dadd_rn(__dmul_rn(b, b), __dmul_rn(2.0, __dmul_rn(a, c))),
                               __dmul_rn(2.0, __dmul_rn(b, c)), __dmul_rn(c, c)};
    const double powers[5] = {t.power[0], t.power[1], t.power[2], t.power[3], fifth};
    double squares = 0.0;
#pragma unroll
    for (u32 i = 0; i < 5; i++) squares = __dadd_rn(squares, __dmul_rn(factors[i], powers[i]));
    // Traces of a Gram matrix are positive; rounding that makes one negative has destroyed it.
    return squares <= job.limit && t.power[0] >= 0.0 && t.power[2] >= 0.0;
}

// The sum over the warps of a block, each of which has its own in all lanes: in thread 0.
__device__ __forceinline__ Traces over_warps(Traces *of_warps, const Traces &mine) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
    __syncthreads();
    Traces sum = of_warps[0];
    for (u32 w = 1; w < THREADS / 32; w++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) sum.power[i] = __dadd_rn(sum.power[i], of_warps[w].power[i]);
    return sum;
}

// The tile's traces are there; the last tile decides.
__device__ void guard(const Lists &l, const Job &job, Traces *of_warps, const Traces &mine, u32 tile) {
    __shared__ bool last;
    Progress &p = l.progress[job.orthogonal];
    const Traces of_tile = over_warps(of_warps, mine);
    if (threadIdx.x == 0) {
        l.traces[job.first_partial + tile] = of_tile;
        last = arrive(&p.guarded) + 1 == job.tiles;
    }
    __syncthreads();
    if (!last) return;
    Traces sum = {};
    for (u32 k = threadIdx.x; k < job.tiles; k += THREADS)
#pragma unroll
        for (u32 i = 0; i < 4; i++) sum.power[i] = __dadd_rn(sum.power[i], l.traces[job.first_partial + k].power[i]);
    for (u32 d = 16; d > 0; d /= 2)
#pragma unroll
        for (u32 i = 0; i < 4; i++) sum.power[i] = __dadd_rn(sum.power[i], __shfl_xor_sync(~0u, sum.power[i], d));
    sum = over_warps(of_warps, sum);
    if (threadIdx.x == 0) {
        p.guarded = 0;
        const Matrix &m = l.matrices[l.orthogonals[job.orthogonal].matrix];
        // A gradient that is not finite gives what IEEE arithmetic gives; nothing else can be made of it.
        if (!stays(job, sum) && isfinite(l.scalars[m.first_segment].inverse)) {
            p.ticket = p.done = 0;
            p.failed = 1;
            if (l.status) atomicAdd(&l.status->ring[(l.status->steps - 1) % ENTRIES].fallbacks, 1ull);
        }
    }
}

// A tile of a product with all that follows it. Every thread of the block calls it.
template <bool HALF>
__device__ __forceinline__ void tile_of(const Lists &l, const Job &job, const Tile &tile, u32 number, u8 *shared) {
    Sums sums = {};
    const u32 stages = shared_address(shared);
    switch (job.form) {
    case BY_ROWS: multiply<HALF, true, true>(sums, job, tile, stages); break;
    case MIXED: multiply<HALF, true, false>(sums, job, tile, stages); break;
    default: multiply<HALF, false, false>(sums, job, tile, stages);
    }
    // Anew: the multiplication has no registers for it.
    const Quarter q(job, tile);
    u8 *const own = shared + threadIdx.x / 32 * OWN;
    Traces traces = {};
    double moved = 0.0, dual = 0.0;
    if (q.there) {
        combine<HALF>(sums, job, q, own, traces);
        if (job.d) {
            store_quarter<HALF>(sums, job, q, own);
        } else {
            __syncwarp();
            float *const floats = (float *)own;
            pairs(sums, [&](u32 row, u32 column, float first, float second) {
                *(float2 *)(floats + row * PITCH + column) = {first, second};
            });
            __syncwarp();
            if (l.duals) dual = dual_of<HALF>(floats, l, job, q);
            const Orthogonal &o = l.orthogonals[job.orthogonal];
            const Matrix &m = l.matrices[o.matrix];
            if (o.groups && m.segments == 1 && is_usual(l.segments[m.first_segment], l.scalars[m.first_segment], o.lmo_first))
                moved = update_quarter<FOUR, true>(floats, l, job, q);
            else
                moved = o.groups ? update_quarter<FOUR, false>(floats, l, job, q) : update_quarter<1, false>(floats, l, job, q);
        }
    }
    if (l.moved && !job.d) {
        __shared__ double of_warps[THREADS / 32], duals[THREADS / 32];
        if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = moved, duals[threadIdx.x / 32] = dual;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (u32 w = 1; w < THREADS / 32; w++)
                moved = __dadd_rn(moved, of_warps[w]), dual = __dadd_rn(dual, duals[w]);
            l.moved[job.first_moved + number] = moved, l.duals[job.first_moved + number] = dual;
        }
    }
    if (job.guards) {
        guard(l, job, (Traces *)shared, traces, number);
    }
}

__device__ __forceinline__ bool is_skipped(const Lists &l, const Job &job) {
    return l.scalars[job.first_segment].flags & SKIP;
}

// The number of a tile among those of its product.
__device__ __forceinline__ u32 number_of(const Job &job, const Tile &t) {
    const u32 across = (job.n + TILE - 1) / TILE;
    return job.symmetric ? t.row * (t.row + 1) / 2 + t.column : t.row * across + t.column;
}

// Which tile has a number.
__device__ __forceinline__ Tile tile_at(const Job &job, u32 number) {
    if (!job.symmetric) {
        const u32 across = (job.n + TILE - 1) / TILE;
        return {0, (u16)(number / across), (u16)(number % across)};
    }
    u32 row = 0;
    while ((row + 1) * (row + 2) / 2 <= number) row++;
    return {0, (u16)row, (u16)(number - row * (row + 1) / 2)};
}

// What a block does next.
struct Next {
    Job job;
    Tile tile;
    u32 number;   // among the tiles of its product
    u32 matrix;  // of the safe iteration: which one the block is at
    bool there;
};

// The next tile of the safe iteration of a matrix whose own has failed; by one thread. Tiles are taken in order, so whoever
// waits for those before waits for blocks that are running: nothing depends on how many run at once.
__device__ __forceinline__ void take(const Lists &l, u32 end, Next &next) {
    next.there = false;
    for (; next.matrix < end; next.matrix++) {
        Progress &p = l.progress[next.matrix];
        const Orthogonal &o = l.orthogonals[next.matrix];
        const Job *at = l.jobs + o.first_job, *const last = at + o.jobs - 1;
        // Launches before this one have said so.
        if (!p.failed || is_skipped(l, *at)) continue;
        const u32 ticket = arrive(&p.ticket);
        if (ticket >= last->first_tile + last->tiles) continue;
        while (ticket >= at->first_tile + at->tiles) at++;
        next.job = *at;
        next.number = ticket - at->first_tile;
        next.tile = tile_at(*at, next.number);
        next.there = true;
        while (load_acquire(&p.done) < at->first_tile) {}
        return;
    }
}

// A block for each of `tiles`; or without them the safe iteration, in one launch, of those among the matrices from `first` on
// that the guard has sent there.
template <bool HALF>
__device__ __forceinline__ void run(const Lists &l, const Tile *tiles, u32 first, u32 count) {
    extern __shared__ __align__(128) u8 shared[];
    __shared__ Next next;
    if (!tiles) {
        // Nearly always nothing has failed: all threads look, so that it takes no longer than it must.
        bool any = false;
        for (u32 i = first + threadIdx.x; i < first + count; i += THREADS) any |= l.progress[i].failed != 0;
        if (!__syncthreads_or(any)) return;
    }
    if (threadIdx.x == 0) {
        if (tiles) {
            next.tile = tiles[blockIdx.x];
            next.job = l.jobs[next.tile.job];
            next.number = number_of(next.job, next.tile);
            // The last product of a matrix whose iteration has failed is left to the safe one.
            const bool skipped = is_skipped(l, next.job), failed = l.progress[next.job.orthogonal].failed;
            next.there = !skipped && (next.job.d || !failed);
            if (skipped && l.moved && !next.job.d)
                l.moved[next.job.first_moved + next.number] = l.duals[next.job.first_moved + next.number] = 0.0;
        } else {
            next.matrix = first;
            take(l, first + count, next);
        }
    }
    for (;;) {
        __syncthreads();
        if (!next.there) return;
        tile_of<HALF>(l, next.job, next.tile, next.number, shared);
        if (tiles) return;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            arrive(&l.progress[next.matrix].done);
            take(l, first + count, next);
        }
    }
}

#define LISTS                                                                                                     \
    const Job *jobs, const Orthogonal *orthogonals, const Matrix *matrices, const Segment *segments,              \
        const Scalars *scalars, Progress *progress, Traces *traces, Status *status, double *moved,     \
        double *duals
#define GIVEN {jobs, orthogonals, matrices, segments, scalars, progress, traces, status, moved, duals}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    product_bf16(LISTS, const Tile *tiles, u32 first, u32 count) {
    run<false>(GIVEN, tiles, first, count);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    product_f16(LISTS, const Tile *tiles, u32 first, u32 count) {
    run<true>(GIVEN, tiles, first, count);
}
