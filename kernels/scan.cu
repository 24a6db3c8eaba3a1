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

// Calls `body` with the rows of a block, 8 elements a lane.
template <typename Body>
__device__ __forceinline__ void rows(const Matrix &m, u32 block, const u8 *p, u8 type, u64 stride, Body body) {
    const u64 first = block * BLOCK;
    const u32 there = m.numel - first < BLOCK ? (u32)(m.numel - first) : (u32)BLOCK;
    const u32 lane = lane_id() * GROUP;
    float v[GROUP];
    if (m.aligned) {
        const u32 whole = there / ROW * ROW;
#pragma unroll 4
        for (u32 at = 0; at < whole; at += ROW) {
            elements(p, type, first + at + lane, GROUP, m.columns, stride, true, v);
            body(at + lane, v);
        }
        if (whole == there) return;
        const u32 at = whole + lane;
        elements(p, type, first + at, at < there ? min(there - at, GROUP) : 0, m.columns, stride, false, v);
        body(at, v);
        return;
    }
    for (u32 at = lane; at < (there + ROW - 1) / ROW * ROW; at += ROW) {
        elements(p, type, first + at, at < there ? min(there - at, GROUP) : 0, m.columns, stride, false, v);
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

// A block of 256 threads for each matrix: its blocks added by 256 lanes, then the lanes pairwise.
extern "C" __global__ void __launch_bounds__(LANES) gather(const Matrix *matrices, u32 count, const Found *found,
                                                           Gathered *out) {
    __shared__ double sums[LANES];
    __shared__ u32 largest, held;
    __shared__ u64 bad, bad_previous;
    for (u32 i = blockIdx.x; i < count; i += gridDim.x) {
        const Matrix &m = matrices[i];
        __syncthreads();
        if (threadIdx.x == 0) largest = held = 0, bad = bad_previous = ~0ull;
        __syncthreads();
        double sum = 0.0;
        float most = 0.0f, sums_held = 0.0f;
        u64 first = ~0ull, first_previous = ~0ull;
#pragma unroll 4
        for (u32 t = threadIdx.x; t < m.tasks; t += LANES) {
            const Found f = found[m.first_task + t];
            sum = __dadd_rn(sum, f.squares);
            most = fmaxf(most, f.largest), sums_held = fmaxf(sums_held, f.held);
            const u64 start = m.offset + t * BLOCK;
            if (f.bad != NOWHERE) first = min(first, start + f.bad);
            if (f.bad_previous != NOWHERE) first_previous = min(first_previous, start + f.bad_previous);
        }
        // Floats that are not negative are ordered as their bits are.
        atomicMax(&largest, __float_as_uint(most));
        atomicMax(&held, __float_as_uint(sums_held));
        if (first != ~0ull) atomicMin(&bad, first);
        if (first_previous != ~0ull) atomicMin(&bad_previous, first_previous);
        const double total = total_of_lanes(sums, sum);
        if (threadIdx.x == 0)
            out[i] = {total, __uint_as_float(largest), __uint_as_float(held), bad, bad_previous};
    }
}

// The step's decision, by one block of 256 threads.
extern "C" __global__ void __launch_bounds__(LANES) decide(const Matrix *matrices, u32 count, const Gathered *gathered,
                                                           const Range *parameters, u32 parameter_count,
                                                           const Control *control, Status *status) {
    const Group *groups = (const Group *)(control + 1);
    __shared__ double sums[LANES];
    __shared__ u32 bad_parameter, large_parameter;
    if (threadIdx.x == 0) bad_parameter = large_parameter = NOWHERE;
    __syncthreads();
    double sum = 0.0;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < count; i += LANES) {
        sum = __dadd_rn(sum, gathered[i].squares);
        if (gathered[i].bad != ~0ull || gathered[i].bad_previous != ~0ull) atomicMin(&bad_parameter, matrices[i].parameter);
    }
    const double total = total_of_lanes(sums, sum);
    const double norm = __ddiv_rn(__dsqrt_rn(total), control->loss_scale);
    double clip = 1.0;
    if (control->clips) {
        const double ratio = __ddiv_rn(control->max_grad_norm, __dadd_rn(norm, 1e-6));
        clip = ratio > 1.0 ? 1.0 : ratio;
    }
    const double factor = __ddiv_rn(clip, control->loss_scale);
    // A parameter's largest gradient, and what its state takes in.
    auto room = [&](u32 p, double &value, double &limit) {
        const Range range = parameters[p];
        float largest = 0.0f, held = 0.0f;
        for (u32 i = range.first; i < range.first + range.count; i++)
            largest = fmaxf(largest, gathered[i].largest), held = fmaxf(held, gathered[i].held);
        const Group &g = groups[range.count ? matrices[range.first].group : 0];
        value = __dmul_rn((double)largest, factor);
        limit = g.rule == ADAGRAD ? __dsqrt_rn(__dsub_rn(g.limit, (double)held)) : g.limit;
        return !(value > limit);
    };
    double value = 0.0, limit = 0.0;
    if (control->scans)
        for (u32 p = threadIdx.x; p < parameter_count; p += LANES)
            if (!room(p, value, limit)) atomicMin(&large_parameter, p);
    __syncthreads();
    if (threadIdx.x > 0) return;
    Entry e = {};
    e.norm = norm, e.clip = clip;
    if (control->scans && bad_parameter != NOWHERE) {
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
            elements(of->gradient, of->type_gradient, own - of->offset, 1, of->columns, of->gradient_stride, false, v);
        } else {
            e.index = previous;
            elements(of_previous->previous, of_previous->type_previous, previous - of_previous->offset, 1,
                     of_previous->columns, of_previous->previous_stride, false, v);
        }
        e.bad = v[0];
    } else if (control->scans && large_parameter != NOWHERE) {
        e.verdict = OVERFLOW, e.parameter = large_parameter;
        room(large_parameter, e.value, e.limit);
    }
    conclude(*status, e, factor);
}
