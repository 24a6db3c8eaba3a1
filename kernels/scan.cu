// One look at all gradients before anything changes: what is not finite, what is too large for its state, the global norm.
//
// `scan` runs over blocks of all matrices, `gather` adds a matrix's blocks up, `decide` makes the step's decision from the
// matrices: whether it is applied, and the factor on its gradients. Every sum has the fixed order of
// src/reference/reduce.rs; what else is found is a minimum or a maximum, which has none.

#include "flat.cuh"

const u32 THREADS = 128;
const u32 NOWHERE = ~0u;

struct __align__(8) Found {
    double squares;
    float largest, held;
    u32 bad, bad_previous;  // first element that is not finite, in the block
};

__device__ __forceinline__ Found found_of(const u64 (&words)[3]) {
    return {__longlong_as_double((long long)words[0]), __uint_as_float((u32)words[1]), __uint_as_float((u32)(words[1] >> 32)),
            (u32)words[2], (u32)(words[2] >> 32)};
}

struct __align__(16) Gathered {
    double squares;
    float largest, held;
    u64 bad, bad_previous;  // in the parameter
};

__device__ __forceinline__ u32 least(u32 v) {
    for (u32 d = 16; d > 0; d /= 2) v = min(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

__device__ __forceinline__ float most(float v) {
    for (u32 d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

// Calls `body` with rows of a block, 8 elements a lane, as long as there are enough whole ones; returns where they end. A lane
// has 64 bytes under way at once: with a row at a time the kernel had half the rate of a copy.
template <bool NARROW, typename Body>
__device__ __forceinline__ u32 whole_rows(const u8 *p, u8 type, u64 first, u32 there, Body body) {
    const u32 N = NARROW ? 4 : 2;
    u32 row = 0;
    for (; row + N * ROW <= there; row += N * ROW) {
        const u32 at = row + lane_id() * GROUP;
        Raw raw[N];
#pragma unroll
        for (u32 k = 0; k < N; k++) raw[k] = load<GROUP, false, NARROW>(p, type, first + at + k * ROW);
#pragma unroll
        for (u32 k = 0; k < N; k++) {
            float v[GROUP];
            widen<GROUP, NARROW>(arrived<GROUP, NARROW>(raw[k], type), type, v);
            body(at + k * ROW, v);
        }
    }
    return row;
}

// Calls `body` with all rows of a block.
template <typename Body>
__device__ __forceinline__ void rows(const Matrix &m, u32 block, const u8 *p, u8 type, u64 stride, Body body) {
    const u64 first = block * BLOCK;
    const u32 there = m.numel - first < BLOCK ? (u32)(m.numel - first) : (u32)BLOCK;
    u32 row = 0;
    if (m.aligned)
        row = type == F32 ? whole_rows<false>(p, type, first, there, body) : whole_rows<true>(p, type, first, there, body);
    for (; row < there; row += ROW) {
        const u32 at = row + lane_id() * GROUP;
        float v[GROUP];
        const u32 have = at < there ? min(there - at, GROUP) : 0;
        elements(p, type, first + at, have, m.columns, stride, m.aligned, row + ROW <= there, v);
        body(at, v);
    }
}

__device__ __forceinline__ void look(const float (&v)[GROUP], u32 at, float &largest, u32 &bad) {
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        largest = fmaxf(largest, fabsf(v[i]));
        if (!isfinite(v[i])) bad = min(bad, at + i);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 7) scan(const Matrix *matrices, const Task *tasks, u32 count,
                                                          const Control *control, const u64 *steps, Found *found) {
    __shared__ Matrix shared[THREADS / 32];
    Matrix &m = shared[threadIdx.x / 32];
    const u32 warps = gridDim.x * (THREADS / 32);
    const bool clips = control->clips;
    u32 at = NOWHERE;
    for (u32 t = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; t < count; t += warps) {
        const Task task = tasks[t];
        if (task.matrix != at) copy_by_warp(m, matrices[task.matrix]);
        at = task.matrix;
        Columns columns = {};
        Found f = {0.0, 0.0f, 0.0f, NOWHERE, NOWHERE};
        if (m.gradient) {
            rows(m, task.block, m.gradient, m.type_gradient, m.gradient_stride, [&](u32 e, const float(&v)[GROUP]) {
                look(v, e, f.largest, f.bad);
                if (clips) columns.add(v);
            });
            // The first step of variance reduction does not read the previous gradient.
            if (m.previous && steps[m.parameter] > 0)
                rows(m, task.block, m.previous, m.type_previous, m.previous_stride, [&](u32 e, const float(&v)[GROUP]) {
                    look(v, e, f.largest, f.bad_previous);
                });
            if (m.held)
                rows(m, task.block, m.held, m.type_held, m.columns, [&](u32, const float(&v)[GROUP]) {
#pragma unroll
                    for (u32 i = 0; i < GROUP; i++) f.held = fmaxf(f.held, v[i]);
                });
        }
        if (clips) f.squares = columns.total();
        f.largest = most(f.largest), f.held = most(f.held);
        f.bad = least(f.bad), f.bad_previous = least(f.bad_previous);
        if (lane_id() == 0) found[t] = f;
    }
}

// What the blocks of a matrix amount to so far.
struct Sum {
    float largest, held;
    u64 bad, bad_previous;

    __device__ __forceinline__ void take(const Found &f, u64 start) {
        largest = fmaxf(largest, f.largest), held = fmaxf(held, f.held);
        if (f.bad != NOWHERE) bad = min(bad, start + f.bad);
        if (f.bad_previous != NOWHERE) bad_previous = min(bad_previous, start + f.bad_previous);
    }

    __device__ __forceinline__ void over_warp() {
        largest = most(largest), held = most(held);
        for (u32 d = 16; d > 0; d /= 2) {
            bad = min(bad, __shfl_xor_sync(~0u, bad, d));
            bad_previous = min(bad_previous, __shfl_xor_sync(~0u, bad_previous, d));
        }
    }
};

// 256 lanes add the blocks of each matrix up, lane l those numbered l, l + 256, ..., then the lanes pairwise: a warp for a
// matrix with few blocks, a block of 256 threads for one with many.
extern "C" __global__ void __launch_bounds__(LANES, 2) gather(const Matrix *matrices, u32 count, const Found *found,
                                                           Gathered *out) {
    __shared__ double sums[LANES];
    __shared__ Sum of_warps[WARPS];
    const u32 warp = threadIdx.x / 32;
    for (u32 base = blockIdx.x * WARPS; base < count; base += gridDim.x * WARPS) {
        const u32 own = base + warp;
        if (own < count && matrices[own].tasks <= FEW) {
            const u32 first = matrices[own].first_task, tasks = matrices[own].tasks;
            const u64 offset = matrices[own].offset;
            Sum sum = {0.0f, 0.0f, ~0ull, ~0ull};
            const double total = total_by_warp(tasks, [&](u32 t) {
                const Found f = found[first + t];
                sum.take(f, offset + t * BLOCK);
                return f.squares;
            });
            sum.over_warp();
            if (lane_id() == 0) out[own] = {total, sum.largest, sum.held, sum.bad, sum.bad_previous};
        }
        for (u32 i = base; i < base + WARPS && i < count; i++) {
            const u32 first = matrices[i].first_task, tasks = matrices[i].tasks;
            if (tasks <= FEW) continue;
            const u64 offset = matrices[i].offset;
            double lane = 0.0;
            Sum sum = {0.0f, 0.0f, ~0ull, ~0ull};
            u32 t = threadIdx.x;
            // Many loads at once: one after the other took 42 us for 24,000 blocks on an H200, eight at once 28.
            const u32 AT_ONCE = 16;
            for (; t + (AT_ONCE - 1) * LANES < tasks; t += AT_ONCE * LANES) {
                u64 batch[AT_ONCE][3];
#pragma unroll
                for (u32 k = 0; k < AT_ONCE; k++)
#pragma unroll
                    for (u32 i = 0; i < 3; i++) batch[k][i] = ld_8((const u64 *)(found + first + t + k * LANES) + i);
#pragma unroll
                for (u32 k = 0; k < AT_ONCE; k++) {
                    const Found f = found_of(batch[k]);
                    lane = __dadd_rn(lane, f.squares);
                    sum.take(f, offset + (t + k * LANES) * BLOCK);
                }
            }
            for (; t < tasks; t += LANES) {
                const Found f = found[first + t];
                lane = __dadd_rn(lane, f.squares);
                sum.take(f, offset + t * BLOCK);
            }
            sum.over_warp();
            if (lane_id() == 0) of_warps[warp] = sum;
            const double total = total_of_lanes(sums, lane);
            if (threadIdx.x == 0) {
                for (u32 w = 1; w < WARPS; w++) {
                    const Sum &other = of_warps[w];
                    sum.largest = fmaxf(sum.largest, other.largest), sum.held = fmaxf(sum.held, other.held);
                    sum.bad = min(sum.bad, other.bad), sum.bad_previous = min(sum.bad_previous, other.bad_previous);
                }
                out[i] = {total, sum.largest, sum.held, sum.bad, sum.bad_previous};
            }
            __syncthreads();
        }
    }
}

const u32 DECIDERS = 1024;

// Halves of `decide`. Between them a caller may reduce the scalars over several cards.
const u32 ADD_UP = 1, DECIDE = 2;

// The largest of all threads' numbers, in every thread.
__device__ __forceinline__ double most_of_block(double *shared, double mine) {
    for (u32 d = 16; d > 0; d /= 2) mine = fmax(mine, __shfl_xor_sync(~0u, mine, d));
    __syncthreads();
    if (lane_id() == 0) shared[threadIdx.x / 32] = mine;
    __syncthreads();
    for (u32 w = 0; w < DECIDERS / 32; w++) mine = fmax(mine, shared[w]);
    return mine;
}

// The step's decision, by one block of 1,024 threads.
extern "C" __global__ void __launch_bounds__(DECIDERS, 1) decide(const Matrix *matrices, u32 count, const Gathered *gathered,
                                                           const Range *parameters, u32 parameter_count,
                                                           const Control *control, Status *status, u32 halves) {
    const Group *groups = (const Group *)(control + 1);
    __shared__ double sums[LANES];
    __shared__ u32 bad_parameter, large_parameter;
    if (threadIdx.x == 0) bad_parameter = large_parameter = NOWHERE;
    __syncthreads();
    // A parameter's largest gradient, and what its state takes in of it before it is clipped and the loss scale divided out.
    auto largest_of = [&](u32 p, double &limit) {
        const Range range = parameters[p];
        float largest = 0.0f, held = 0.0f;
        for (u32 i = range.first; i < range.first + range.count; i++)
            largest = fmaxf(largest, gathered[i].largest), held = fmaxf(held, gathered[i].held);
        const Group &g = groups[range.count ? matrices[range.first].group : 0];
        limit = g.rule == ADAGRAD ? __dsqrt_rn(__dsub_rn(g.limit, (double)held)) : g.limit;
        return (double)largest;
    };
    auto share_of = [&](u32 p) {
        double limit;
        const double largest = largest_of(p, limit);
        return __ddiv_rn(largest, limit);
    };
    const bool scans = control->scans;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < count; i += DECIDERS)
        if (gathered[i].bad != ~0ull || gathered[i].bad_previous != ~0ull) atomicMin(&bad_parameter, matrices[i].parameter);
    double squares, found, too_large = 0.0;
    if (halves & ADD_UP) {
        double sum = 0.0;
        if (threadIdx.x < LANES)
#pragma unroll 8
            for (u32 i = threadIdx.x; i < count; i += LANES) sum = __dadd_rn(sum, gathered[i].squares);
        squares = total_of_lanes(sums, sum);
        found = scans && bad_parameter != NOWHERE ? 1.0 : 0.0;
        if (scans) {
#pragma unroll 4
            for (u32 p = threadIdx.x; p < parameter_count; p += DECIDERS) too_large = fmax(too_large, share_of(p));
            too_large = most_of_block(sums, too_large);
        }
    } else {
        squares = status->squares, found = status->found, too_large = status->too_large;
        __syncthreads();
    }
    if (!(halves & DECIDE)) {
        if (threadIdx.x == 0) status->squares = squares, status->found = found, status->too_large = too_large;
        return;
    }
    const double norm = __ddiv_rn(__dsqrt_rn(squares), control->loss_scale);
    double clip = 1.0;
    if (control->clips) {
        const double ratio = __ddiv_rn(control->max_grad_norm, __dadd_rn(norm, 1e-6));
        clip = ratio > 1.0 ? 1.0 : ratio;
    }
    const double factor = __ddiv_rn(clip, control->loss_scale);
    // What was made of the scalars may be anything: a number is asked for, not that there be no NaN.
    const bool bad = scans && !(found == 0.0 && isfinite(squares));
    const bool large = scans && !bad && !(__dmul_rn(too_large, factor) <= 1.0);
    if (large)
        for (u32 p = threadIdx.x; p < parameter_count; p += DECIDERS)
            if (__dmul_rn(share_of(p), factor) > 1.0) atomicMin(&large_parameter, p);
    __syncthreads();
    if (threadIdx.x > 0) return;
    Entry e = {};
    e.norm = norm, e.clip = clip;
    if (bad && bad_parameter != NOWHERE) {
        e.verdict = NON_FINITE, e.parameter = bad_parameter;
        // Its own gradient comes before the previous one.
        const Range range = parameters[bad_parameter];
        u64 own = ~0ull, previous = ~0ull;
        const Matrix *of = nullptr, *of_previous = nullptr;
        for (u32 i = range.first; i < range.first + range.count; i++) {
            if (gathered[i].bad < own) own = gathered[i].bad, of = &matrices[i];
            if (gathered[i].bad_previous < previous) previous = gathered[i].bad_previous, of_previous = &matrices[i];
        }
        float v[GROUP];
        if (of) {
            e.index = own;
            elements(of->gradient, of->type_gradient, own - of->offset, 1, of->columns, of->gradient_stride, false, false, v);
        } else {
            e.index = previous;
            elements(of_previous->previous, of_previous->type_previous, previous - of_previous->offset, 1,
                     of_previous->columns, of_previous->previous_stride, false, false, v);
        }
        e.bad = v[0];
    } else if (large && large_parameter != NOWHERE) {
        e.verdict = OVERFLOW, e.parameter = large_parameter;
        e.value = __dmul_rn(largest_of(large_parameter, e.limit), factor);
    } else if (bad || large) {
        e.verdict = ELSEWHERE;
    }
    conclude(*status, e, factor);
}
