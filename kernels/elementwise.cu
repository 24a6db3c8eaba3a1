// Every update that depends on its element alone: sign descent with any estimator (SignSGD, Signum, Lion, extrapolated,
// variance-reduced, ...), SGD, AdamW, AdaGrad. One launch for all tensors, groups and types.
//
// `prepare` turns hyperparameters and step counts into the scalars of the step; `elementwise` runs over chunks of all
// segments, a warp each. Every operation is one IEEE operation in the order of src/reference/rules.rs, never fused: the bits are the
// CPU's. Types and rules are uniform over a chunk, so their branches cost a warp nothing but the instructions; all loads of
// a group of 8 elements are issued before the first is used.

#include "flat.cuh"
#include "rules.cuh"

const u64 CHUNK = 1024;  // elements that a warp takes in one go: small, so that no warp has much more to do than another
const u32 THREADS = 128;  // 6 such blocks a multiprocessor leave 80 registers a thread

// --- scalars -------------------------------------------------------------------------------------------------------

// beta^t by repeated squaring, in the reference's order.
__device__ double power(double beta, u64 t) {
    double result = 1.0, square = beta;
    while (t > 0) {
        if (t & 1) result = __dmul_rn(result, square);
        square = __dmul_rn(square, square);
        t >>= 1;
    }
    return result;
}

__device__ __forceinline__ Scalars scalars_of(const Group &g, double scale, u64 t, double factor) {
    Scalars s = {};
    s.first = s.second = s.inverse = 1.0f;
    s.rule = g.rule;
    s.flags = g.flags;
    s.step = (u32)t;
    s.factor = (float)((g.flags & MAXIMIZE) ? -factor : factor);
    bool first = t == 1;
    if (g.rule == SGD) {
        if (first) s.flags |= FIRST;
        if (g.weight_decay != 0.0) s.flags |= DECAYS;
        s.eta = (float)g.lr;
        s.lose = (float)g.weight_decay;
        s.c[0] = (float)g.c[0];
        s.c[1] = (float)__dsub_rn(1.0, g.c[1]);
    } else if (g.rule == ADAMW) {
        double lost = __dmul_rn(g.lr, g.weight_decay);
        if (lost != 0.0) s.flags |= DECAYS;
        s.keep = (float)__dsub_rn(1.0, lost);
        s.eta = (float)__ddiv_rn(g.lr, __dsub_rn(1.0, power(g.c[0], t)));
        s.reach = (float)__ddiv_rn(1.0, __dsqrt_rn(__dsub_rn(1.0, power(g.c[1], t))));
        s.c[0] = (float)g.c[0];
        s.c[1] = (float)__dsub_rn(1.0, g.c[0]);
        s.c[2] = (float)g.c[1];
        s.c[3] = (float)__dsub_rn(1.0, g.c[1]);
        s.c[4] = (float)g.c[2];
    } else if (g.rule == ADAGRAD) {
        if (g.weight_decay != 0.0) s.flags |= DECAYS;
        double slowed = __dadd_rn(1.0, __dmul_rn((double)(t - 1), g.c[3]));
        s.eta = (float)__ddiv_rn(g.lr, slowed);
        s.lose = (float)g.weight_decay;
        s.c[4] = (float)g.c[2];
    } else {
        if (first && (g.flags & STARTS_FROM_GRADIENT)) s.flags |= FIRST;
        double lost = (g.flags & CONVEX) ? g.lr : __dmul_rn(g.lr, g.weight_decay);
        if (lost != 0.0) s.flags |= DECAYS;
        s.eta = (float)__dmul_rn(g.lr, scale);
        s.keep = (float)__dsub_rn(1.0, lost);
        s.lose = (float)lost;
        // An extrapolated group's c[0] is alpha, the weight of the new gradient; so is MVR's.
        if (g.flags & EXTRAPOLATED) s.reach = (float)__ddiv_rn(__dsub_rn(1.0, g.c[0]), g.c[0]);
        bool alpha = (g.flags & EXTRAPOLATED) || g.rule == MVR;
        double old0 = alpha ? __dsub_rn(1.0, g.c[0]) : g.c[0];
        double new0 = alpha ? g.c[0] : __dsub_rn(1.0, g.c[0]);
        s.c[0] = (float)old0;
        s.c[1] = (float)new0;
        s.c[2] = (float)g.c[1];
        s.c[3] = (float)__dsub_rn(1.0, g.c[1]);
    }
    return s;
}

// All groups.
const u32 EVERY = ~0u;

// The scalars of a parameter's segments, every `apart`-th of them. Rows of a strided matrix share their scale.
__device__ __forceinline__ void write_scalars(const Segment *segments, const Group &group, const Range &range, u64 t,
                                              double factor, bool applies, u32 from, u32 apart, Scalars *scalars) {
    double scale = 0.0;
    Scalars s;
    bool made = false;
    for (u32 i = range.first + from; i < range.first + range.count; i += apart) {
        if (!applies) {
            scalars[i].flags = SKIP;
            continue;
        }
        if (!made || segments[i].scale != scale) {
            scale = segments[i].scale;
            s = scalars_of(group, scale, t, factor);
            made = true;
        }
        scalars[i] = s;
    }
}

const u32 PREPARERS = 128;   // as in src/cuda/kernels.rs
const u32 FEW_SEGMENTS = 4;  // that a thread writes; those of a parameter with more are dealt out to its block

// A thread for each parameter: its step count advances, its segments get their scalars. A parameter without a gradient, one
// of another group than `only`, and all of them in a step that is refused, are left alone. `decided`: `decide` ran before.
extern "C" __global__ void __launch_bounds__(PREPARERS, 1)
    prepare(const Segment *segments, const Range *parameters, u32 count, const Control *control, u64 *steps, Scalars *scalars,
            Status *status, u32 decided, u32 only) {
    __shared__ u32 many[PREPARERS], how_many;
    if (threadIdx.x == 0) how_many = 0;
    __syncthreads();
    const Group *groups = (const Group *)(control + 1);
    const u32 p = blockIdx.x * PREPARERS + threadIdx.x;
    const double factor = decided ? status->factor : __ddiv_rn(1.0, control->loss_scale);
    const bool applies = !decided || status->apply;
    if (p == 0 && !decided && only == EVERY) {
        // Nobody reads the status in such a launch: there is nothing to decide.
        Entry e = {};
        e.clip = 1.0;
        conclude(*status, e, factor);
    }
    const Range range = p < count ? parameters[p] : Range{0, 0};
    const bool wanted = range.count > 0 && (only == EVERY || segments[range.first].group == only);
    if (wanted && range.count > FEW_SEGMENTS) {
        many[atomicAdd(&how_many, 1)] = p;
    } else if (wanted) {
        const Segment &head = segments[range.first];
        const bool moves = applies && head.gradient;
        const u64 t = steps[p] + 1;
        if (moves) steps[p] = t;
        write_scalars(segments, groups[head.group], range, t, factor, moves, 0, 1, scalars);
    }
    __syncthreads();
    for (u32 k = 0; k < how_many; k++) {
        const u32 q = many[k];
        const Range range = parameters[q];
        const Segment &head = segments[range.first];
        const bool moves = applies && head.gradient;
        const u64 t = steps[q] + 1;
        __syncthreads();
        if (moves && threadIdx.x == 0) steps[q] = t;
        write_scalars(segments, groups[head.group], range, t, factor, moves, threadIdx.x, PREPARERS, scalars);
    }
}

// --- the pass ------------------------------------------------------------------------------------------------------

// What a thread has asked for of its elements.
struct Raws {
    Raw g, x, previous, m, v, high;
};

// One step of N elements of a segment; 8 of them are at 16-byte boundaries, and so is the whole warp, side by side.
template <u32 N, Family FAMILY, bool PLAIN>
struct Step {
    const Segment &t;
    const Scalars &s;
    const bool previous, largest, momentum, full, low;

    // PLAIN segments have neither a previous gradient nor a copy of the parameter.
    __device__ __forceinline__ Step(const Segment &t, const Scalars &s)
        : t(t), s(s), previous(!PLAIN && FAMILY == TRUST_REGION && t.previous),
          largest(FAMILY == ADAPTIVE && t.largest), momentum(t.momentum), full(!PLAIN && t.full),
          low(!PLAIN && t.type_full == LOW) {}

    __device__ __forceinline__ Raw get(const u8 *p, u8 type, u64 at) const {
        return load<N, false, PLAIN>(p, type, at);
    }

    __device__ __forceinline__ void open(const Raw &raw, u8 type, float (&out)[N]) const {
        widen<N, PLAIN>(arrived<N, PLAIN>(raw, type), type, out);
    }

    __device__ __forceinline__ void put(u8 *p, u8 type, u64 at, const float (&v)[N], bool random, u32 buffer) const {
        Dither dither = {random, {t.key[0], t.key[1]}, s.step, buffer, t.index + at};
        store<N, PLAIN>(p, type, at, narrow<N, PLAIN>(v, type, dither));
    }

    // These loads are under way before the first is used. Gradients are not read past the first-level cache, as what is read
    // once might be: on an H200 that cost 2 % of the copy rate (Lion: 92.1 % with, 94.7 % without).
    __device__ __forceinline__ Raws ask(u64 at) const {
        Raws r = {};
        r.g = get(t.gradient, t.type_gradient, at);
        r.x = full ? get(t.full, t.type_full, at) : get(t.visible, t.type_visible, at);
        if (low) r.high = get(t.visible, t.type_visible, at);
        if (previous) r.previous = get(t.previous, t.type_previous, at);
        if (momentum) r.m = get(t.momentum, t.type_momentum, at);
        if (FAMILY == ADAPTIVE) r.v = get(t.variance, t.type_variance, at);
        return r;
    }

    // MEASURED: `squares` takes in those of what the elements moved by, in order.
    template <bool MEASURED>
    __device__ __forceinline__ void finish(u64 at, Raws &r, float &squares) const {
        const bool random = s.flags & STOCHASTIC;
        Values<N> w = {};
        open(r.g, t.type_gradient, w.g);
        if (low)
            join<N>(r.high, r.x, w.x);
        else
            open(r.x, full ? t.type_full : t.type_visible, w.x);
        if (previous) open(r.previous, t.type_previous, w.previous);
        if (momentum) open(r.m, t.type_momentum, w.m);
        if (FAMILY == ADAPTIVE) open(r.v, t.type_variance, w.v);
        // Asked for late: with amsgrad's buffer too there would not be registers enough.
        if (largest) open(get(t.largest, t.type_variance, at), t.type_variance, w.largest);
        float before[N];
        if (MEASURED) w.each([&](u32 i) { before[i] = w.x[i]; });
        update<N, FAMILY>(s, w, momentum, previous);
        if (MEASURED)
            w.each([&](u32 i) {
                const float moved = sub(w.x[i], before[i]);
                squares = add(squares, mul(moved, moved));
            });
        // A parameter with a full-precision copy is that copy's rounding, never a random one.
        if (low) {
            split<N>(w.x, r.high, r.x);
            store<N>(t.visible, BF16, at, r.high);
            store<N>(t.full, BF16, at, r.x);
        } else if (full) {
            if (FAMILY == TRUST_REGION && !PLAIN && (s.flags & EXTRAPOLATED))
                put(t.visible, t.type_visible, at, w.y, false, 0);
            else
                put(t.visible, t.type_visible, at, w.x, false, 0);
            put(t.full, t.type_full, at, w.x, false, 0);
        } else {
            put(t.visible, t.type_visible, at, w.x, random, 0);
        }
        if (momentum) put(t.momentum, t.type_momentum, at, w.m, random, 1);
        if (FAMILY == ADAPTIVE) put(t.variance, t.type_variance, at, w.v, random, 2);
        if (largest) put(t.largest, t.type_variance, at, w.largest, random, 3);
    }
};

const u32 ROW_OF_WARP = 32 * GROUP;

// A warp's chunk of a segment. PLAIN: all buffers are 16-bit, and there are no others than gradient, parameter and state.
// MEASURED: the lane's part of the squares of what the chunk moved by. Its elements are the same wherever buffers begin: the
// host then gives such segments either a boundary at their first element or none.
template <Family FAMILY, bool PLAIN, bool MEASURED>
__device__ __forceinline__ float chunk_of(const Segment &t, const Scalars &s, u64 from) {
    float squares = 0.0f;
    // What all families read would else be read before they part, and held by each for longer than it needs it.
    read_afresh();
    // Positions count from the boundary before the first element, so that groups begin at 16 bytes.
    const u32 before = (GROUP - t.shift) % GROUP;
    const u64 start = from > before ? from - before : 0;
    const u64 rest = t.numel + before - from;
    const u32 count = (u32)(rest < CHUNK ? rest : CHUNK) - (from > 0 ? 0 : before);
    u32 row = 0;
    if (t.aligned && (from > 0 || before == 0)) {
        const Step<GROUP, FAMILY, PLAIN> step(t, s);
        const u64 at = start + lane_id() * GROUP;
        // Two rows of 16-bit buffers at once: one alone leaves too few bytes under way (83 % of the copy rate).
        if (PLAIN && FAMILY != ADAPTIVE)
            for (; row + 2 * ROW_OF_WARP <= count; row += 2 * ROW_OF_WARP) {
                Raws first = step.ask(at + row), second = step.ask(at + row + ROW_OF_WARP);
                step.template finish<MEASURED>(at + row, first, squares);
                step.template finish<MEASURED>(at + row + ROW_OF_WARP, second, squares);
            }
        for (; row + ROW_OF_WARP <= count; row += ROW_OF_WARP) {
            Raws raws = step.ask(at + row);
            step.template finish<MEASURED>(at + row, raws, squares);
        }
    }
    // The first and the last elements, and buffers without a common boundary: lane by lane.
    read_afresh();
    const Step<1, FAMILY, false> single(t, s);
    if (MEASURED)
        // Rows without a boundary: the elements that the lane would have had.
        for (; row + ROW_OF_WARP <= count; row += ROW_OF_WARP)
#pragma unroll 1
            for (u64 e = start + row + lane_id() * GROUP, end = e + GROUP; e < end; e++) {
                Raws raws = single.ask(e);
                single.template finish<true>(e, raws, squares);
            }
    for (row += lane_id(); row < count; row += 32) {
        Raws raws = single.ask(start + row);
        single.template finish<MEASURED>(start + row, raws, squares);
    }
    return squares;
}

// All chunks of all segments, from `first` on, dealt out to the warps in turn. `owners`: the segment of each chunk. MEASURED:
// `moved` takes the squares of what each chunk moved by.
template <bool MEASURED>
__device__ __forceinline__ void all_chunks(const Segment *segments, const Scalars *scalars, const u32 *owners, u32 first,
                                           u32 end, double *moved) {
    // Descriptions are read from global memory once for each run of a segment's chunks: loads in the inner loop would be
    // traffic beside the tensors'.
    __shared__ Segment segments_of_warps[THREADS / 32];
    __shared__ Scalars scalars_of_warps[THREADS / 32];
    // A shuffle tells the compiler that it is the same number in all lanes.
    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    Segment &t = segments_of_warps[warp];
    Scalars &s = scalars_of_warps[warp];
    // The warps of a block begin side by side, mostly in the same segment, which the first of them reads for all.
    u32 c = first + blockIdx.x * (THREADS / 32) + warp;
    if (warp == 0 && c < end) {
        const u32 segment = owners[c];
        copy_by_warp(t, segments[segment]);
        copy_by_warp(s, scalars[segment]);
    }
    __syncthreads();
    if (warp > 0) {
        copy_by_warp(t, segments_of_warps[0]);
        copy_by_warp(s, scalars_of_warps[0]);
    }
    __syncthreads();
    for (; c < end; c += gridDim.x * (THREADS / 32)) {
        if (c - t.first_chunk >= t.chunks) {
            const u32 segment = owners[c];
            copy_by_warp(t, segments[segment]);
            copy_by_warp(s, scalars[segment]);
        }
        if (s.flags & SKIP) {
            if (MEASURED && lane_id() == 0) moved[c] = 0.0;
            continue;
        }
        const u64 from = (c - t.first_chunk) * CHUNK;
        const bool plain = t.plain;
        float squares;
        switch (s.rule) {
        case SGD:
            squares = plain ? chunk_of<DESCENT, true, MEASURED>(t, s, from) : chunk_of<DESCENT, false, MEASURED>(t, s, from);
            break;
        case ADAMW:
        case ADAGRAD:
            squares = plain ? chunk_of<ADAPTIVE, true, MEASURED>(t, s, from) : chunk_of<ADAPTIVE, false, MEASURED>(t, s, from);
            break;
        default:
            squares = plain ? chunk_of<TRUST_REGION, true, MEASURED>(t, s, from)
                            : chunk_of<TRUST_REGION, false, MEASURED>(t, s, from);
        }
        if (MEASURED) {
            double sum = (double)squares;
            for (u32 d = 16; d > 0; d /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(~0u, sum, d));
            if (lane_id() == 0) moved[c] = sum;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 6)
    elementwise(const Segment *segments, const Scalars *scalars, const u32 *owners, u32 first, u32 end) {
    all_chunks<false>(segments, scalars, owners, first, end, nullptr);
}

// A kernel of its own: what is not measured costs nothing.
extern "C" __global__ void __launch_bounds__(THREADS, 5) elementwise_measured(const Segment *segments, const Scalars *scalars,
                                                                              const u32 *owners, u32 first, u32 end,
                                                                              double *moved) {
    all_chunks<true>(segments, scalars, owners, first, end, moved);
}

// What the groups moved by: 256 lanes add up the chunks of each. `elements`: of the group, with a gradient. By one block.
extern "C" __global__ void __launch_bounds__(LANES) measure(const Range *chunks, const double *elements, u32 groups,
                                                            const double *moved, Status *status, u32 plain,
                                                            u32 all) {
    __shared__ double sums[LANES];
    double *out = (double *)(status + 1) + (status->steps - 1) % ENTRIES * (2 * groups + 1);
    for (u32 g = 0; g < groups; g++) {
        const Range range = chunks[g];
        double sum = 0.0;
#pragma unroll 8
        for (u32 c = threadIdx.x; c < range.count; c += LANES) sum = __dadd_rn(sum, moved[range.first + c]);
        const double total = total_of_lanes(sums, sum);
        if (threadIdx.x == 0) out[g] = elements[g] > 0.0 ? __dsqrt_rn(__ddiv_rn(total, elements[g])) : 0.0;
        __syncthreads();
        // What is orthogonalised has its dual norms' parts behind all that moved.
        sum = 0.0;
        if (range.first >= plain)
            for (u32 c = threadIdx.x; c < range.count; c += LANES) sum = __dadd_rn(sum, moved[all + range.first - plain + c]);
        const double dual = total_of_lanes(sums, sum);
        if (threadIdx.x == 0) out[groups + g] = dual;
        __syncthreads();
    }
    if (threadIdx.x == 0) ((u64 *)out)[2 * groups] = status->steps;
}

// --- norms ---------------------------------------------------------------------------------------------------------

// The squares of the vectors for the LMO, before anything changes: a warp for each block of a matrix.
extern "C" __global__ void __launch_bounds__(THREADS, 7)
    norms(const Matrix *matrices, const Task *tasks, u32 count, const Scalars *scalars, double *squares) {
    __shared__ Matrix of_warps[THREADS / 32];
    __shared__ Scalars scalars_of_warps[THREADS / 32];
    Matrix &m = of_warps[threadIdx.x / 32];
    Scalars &s = scalars_of_warps[threadIdx.x / 32];
    const u32 warps = gridDim.x * (THREADS / 32);
    u32 loaded = ~0u;
    for (u32 i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; i < count; i += warps) {
        const Task task = tasks[i];
        if (task.matrix != loaded) {
            copy_by_warp(m, matrices[task.matrix]);
            copy_by_warp(s, scalars[m.first_segment]);
            loaded = task.matrix;
        }
        if (s.flags & SKIP) continue;
        const u64 first = task.block * BLOCK;
        const u32 there = m.numel - first < BLOCK ? (u32)(m.numel - first) : (u32)BLOCK;
        Columns columns = {};
        u32 row = 0;
        // Two rows at once where all is 16-bit: one alone leaves too few bytes under way.
        if (m.aligned && !m.previous && m.momentum && m.type_gradient != F32 && m.type_momentum != F32)
            for (; row + 2 * ROW <= there; row += 2 * ROW) {
                Raw g[2], momentum[2];
#pragma unroll
                for (u32 k = 0; k < 2; k++) {
                    const u64 at = first + row + k * ROW + lane_id() * GROUP;
                    g[k] = load<GROUP, false, true>(m.gradient, m.type_gradient, at);
                    momentum[k] = load<GROUP, false, true>(m.momentum, m.type_momentum, at);
                }
#pragma unroll
                for (u32 k = 0; k < 2; k++) {
                    Values<GROUP> w = {};
                    widen<GROUP, true>(g[k], m.type_gradient, w.g);
                    widen<GROUP, true>(momentum[k], m.type_momentum, w.m);
                    scale_gradients(s, w, false);
                    estimate(s, w);
                    columns.add(w.g);
                }
            }
#pragma unroll 1
        for (; row < there; row += ROW) {
            const u32 at = row + lane_id() * GROUP;
            const u32 have = at < there ? min(there - at, GROUP) : 0;
            auto get = [&](const u8 *p, u8 type, u64 stride, float (&v)[GROUP]) {
                elements(p, type, first + at, have, m.columns, stride, m.aligned, row + ROW <= there, v);
            };
            Values<GROUP> w = {};
            get(m.gradient, m.type_gradient, m.gradient_stride, w.g);
            if (m.previous) get(m.previous, m.type_previous, m.previous_stride, w.previous);
            if (m.momentum) get(m.momentum, m.type_momentum, m.columns, w.m);
            scale_gradients(s, w, m.previous != nullptr);
            estimate(s, w);
            // What is not there is 0, and stays so under every estimator.
            columns.add(w.g);
        }
        const double total = columns.total();
        if (lane_id() == 0) squares[i] = total;
    }
}

// The radius of a matrix goes to the scalars of its segments, every `apart`-th of them.
__device__ __forceinline__ void set_radius(const Matrix &m, double squares, u32 from, u32 apart, Scalars *scalars) {
    const Divided by = divide_by(__dsqrt_rn(squares), m);
    for (u32 k = from; k < m.segments; k += apart) {
        Scalars &s = scalars[m.first_segment + k];
        s.first = by.first, s.second = by.second, s.inverse = by.inverse;
    }
}

// The norm of each matrix whose direction is m / ||m||, split into a mantissa in [1, 2) and a power of two: by a warp for a
// matrix with few blocks, by 256 threads for one with many. `list` names the matrices; the first task of each counts from the list's.
extern "C" __global__ void __launch_bounds__(LANES, 2) radii(const Matrix *matrices, const Range *list, u32 count,
                                                             const double *squares, const u32 *which, Scalars *scalars) {
    __shared__ double sums[LANES];
    auto is_skipped = [&](const Matrix &m) { return (scalars[m.first_segment].flags & SKIP) != 0; };
    for (u32 base = blockIdx.x * WARPS; base < count; base += gridDim.x * WARPS) {
        const u32 own = base + threadIdx.x / 32;
        if (own < count && list[own].count <= FEW) {
            const Matrix &m = matrices[which[own]];
            const Range tasks = list[own];
            if (!is_skipped(m)) {
                const double total = total_by_warp(tasks.count, [&](u32 t) { return squares[tasks.first + t]; });
                set_radius(m, total, lane_id(), 32, scalars);
            }
        }
        for (u32 i = base; i < base + WARPS && i < count; i++) {
            const Range tasks = list[i];
            if (tasks.count <= FEW) continue;
            const Matrix &m = matrices[which[i]];
            if (is_skipped(m)) continue;
            double sum = 0.0;
            u32 t = threadIdx.x;
            // Many loads at once: with four it took 44 us for 24,000 blocks on an H200, with 32 it takes 11.
            const u32 AT_ONCE = 32;
            for (; t + (AT_ONCE - 1) * LANES < tasks.count; t += AT_ONCE * LANES) {
                double batch[AT_ONCE];
#pragma unroll
                for (u32 k = 0; k < AT_ONCE; k++)
                    batch[k] = __longlong_as_double((long long)ld_8(squares + tasks.first + t + k * LANES));
#pragma unroll
                for (u32 k = 0; k < AT_ONCE; k++) sum = __dadd_rn(sum, batch[k]);
            }
            for (; t < tasks.count; t += LANES) sum = __dadd_rn(sum, squares[tasks.first + t]);
            set_radius(m, total_of_lanes(sums, sum), threadIdx.x, LANES, scalars);
        }
    }
}

// --- before the first step -----------------------------------------------------------------------------------------

// Full-precision copies begin as what the parameters are. A thread for each element of a chunk.
extern "C" __global__ void __launch_bounds__(THREADS) adopt(const Segment *segments, const u32 *owners, u32 count) {
    for (u32 c = blockIdx.x; c < count; c += gridDim.x) {
        const Segment &t = segments[owners[c]];
        if (t.full == nullptr || t.type_full != F32) continue;
        const u64 from = (c - t.first_chunk) * CHUNK;
        const u64 stop = min(from + CHUNK, t.numel);
        for (u64 e = from + threadIdx.x; e < stop; e += THREADS) {
            const u16 half = t.type_visible == F32 ? 0 : ((const u16 *)t.visible)[e];
            ((float *)t.full)[e] = t.type_visible == F32    ? ((const float *)t.visible)[e]
                                   : t.type_visible == BF16 ? from_bf16(half)
                                                            : from_f16(half);
        }
    }
}
