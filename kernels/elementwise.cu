// Every update that depends on its element alone: sign descent with any estimator (SignSGD, Signum, Lion, extrapolated,
// variance-reduced, ...), SGD, AdamW, AdaGrad. One launch for all tensors, groups and types.
//
// `prepare` turns hyperparameters and step counts into the scalars of the step; `elementwise` runs over chunks of all
// segments. Every operation is one IEEE operation in the order of src/reference/rules.rs, never fused: the bits are the
// CPU's. Types and rules are uniform over a chunk, so their branches cost a warp nothing but the instructions; all loads of
// a group of 8 elements are issued before the first is used.

#include "table.cuh"

const u32 GROUP = 8;        // elements a thread takes at once: 16 bytes of a 16-bit type
const u64 CHUNK = 16384;
const u32 THREADS = 128;  // 5 such blocks a multiprocessor leave 96 registers a thread; 256 x 3 leave 80, and it spills

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

__device__ Scalars scalars_of(const Group &g, double scale, u64 t, double clip) {
    Scalars s = {};
    s.rule = g.rule;
    s.flags = g.flags;
    s.step = (u32)t;
    s.factor = (float)((g.flags & MAXIMIZE) ? -clip : clip);
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
        s.reach = (float)__dsqrt_rn(__dsub_rn(1.0, power(g.c[1], t)));
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

// The segments of a parameter.
struct Range {
    u32 first, count;
};

// A thread for each parameter: its step count advances, its segments get their scalars. `clip` is one number, or null.
extern "C" __global__ void prepare(const Segment *segments, const Range *parameters, u32 count, const Group *groups,
                                   u64 *steps, const double *clip, Scalars *scalars) {
    u32 p = blockIdx.x * blockDim.x + threadIdx.x;
    if (p >= count) return;
    u64 t = steps[p] + 1;
    steps[p] = t;
    double factor = clip ? *clip : 1.0;
    Range range = parameters[p];
    for (u32 i = range.first; i < range.first + range.count; i++)
        scalars[i] = scalars_of(groups[segments[i].group], segments[i].scale, t, factor);
}

// --- 8 elements of a buffer ----------------------------------------------------------------------------------------

struct Raw {
    uint4 low, high;
};

__device__ __forceinline__ u64 bytes_of(u8 type) { return type == F32 ? 4 : 2; }

__device__ __forceinline__ u32 lane_id() { return threadIdx.x % 32; }

__device__ __forceinline__ uint4 choose(bool first, uint4 a, uint4 b) {
    return {first ? a.x : b.x, first ? a.y : b.y, first ? a.z : b.z, first ? a.w : b.w};
}

// What the lane 16 further (or before) has.
__device__ __forceinline__ uint4 from_other_half(uint4 v) {
    return {__shfl_xor_sync(~0u, v.x, 16), __shfl_xor_sync(~0u, v.y, 16), __shfl_xor_sync(~0u, v.z, 16),
            __shfl_xor_sync(~0u, v.w, 16)};
}

// 8 elements of 4 bytes are two accesses of 16 bytes. Were each lane to make its own two, either instruction would touch
// half of every 32-byte sector; so the first takes the warp's first 512 bytes and the second the rest, and lanes 16 apart
// then exchange what belongs to the other: lanes below 16 hold the first halves, those above the second ones.
// TOGETHER: all lanes of the warp are here, side by side.
struct Places {
    int first, second;  // bytes from the lane's own place
};

__device__ __forceinline__ Places places(bool together) {
    if (!together) return {0, 16};
    return lane_id() < 16 ? Places{0, 512} : Places{16 - 512, 16};
}

__device__ __forceinline__ Raw exchange(bool together, uint4 a, uint4 b) {
    if (!together) return {a, b};
    const bool lower = lane_id() < 16;
    uint4 other = from_other_half(choose(lower, b, a));
    return {choose(lower, a, other), choose(lower, other, b)};
}

// The bits of 8 elements. ONCE: nobody writes them while the kernel runs.
template <bool ONCE>
__device__ __forceinline__ Raw load(const u8 *p, u8 type, u64 at, bool together) {
    const u8 *from = p + at * bytes_of(type);
    if (type != F32) return {ONCE ? ld_once(from) : ld_16(from), {}};
    const Places place = places(together);
    uint4 a = ONCE ? ld_once(from + place.first) : ld_16(from + place.first);
    uint4 b = ONCE ? ld_once(from + place.second) : ld_16(from + place.second);
    return {a, b};  // not exchanged yet: nothing is used before all loads are under way
}

__device__ __forceinline__ Raw arrived(const Raw &raw, u8 type, bool together) {
    return type == F32 ? exchange(together, raw.low, raw.high) : raw;
}

// The same one by one, those from `lo` to `hi`: heads, tails, buffers without a common boundary.
__device__ __forceinline__ Raw load_some(const u8 *p, u8 type, u64 at, u32 lo, u32 hi) {
    u32 words[8] = {};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i < lo || i >= hi) continue;
        if (type == F32)
            words[i] = ((const u32 *)p)[at + i];
        else
            words[i / 2] |= (u32)((const u16 *)p)[at + i] << (i % 2 * 16);
    }
    return {{words[0], words[1], words[2], words[3]}, {words[4], words[5], words[6], words[7]}};
}

__device__ __forceinline__ void widen(const Raw &raw, u8 type, float (&out)[GROUP]) {
    const u32 w[8] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w, raw.high.x, raw.high.y, raw.high.z, raw.high.w};
    if (type == F32) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) out[i] = __uint_as_float(w[i]);
    } else if (type == BF16) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) out[i] = from_bf16((u16)(w[i / 2] >> (i % 2 * 16)));
    } else {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) out[i] = from_f16((u16)(w[i / 2] >> (i % 2 * 16)));
    }
}

// Philox4x32-10 (Salmon et al., SC 2011): what random bits come from.
__device__ uint4 philox(uint4 c, uint2 k) {
#pragma unroll
    for (u32 i = 0; i < 10; i++) {
        u32 low = __umulhi(c.x, 0xd2511f53u), high = __umulhi(c.z, 0xcd9e8d57u);
        c = {high ^ c.y ^ k.x, c.z * 0xcd9e8d57u, low ^ c.w ^ k.y, c.x * 0xd2511f53u};
        k = {k.x + 0x9e3779b9u, k.y + 0xbb67ae85u};
    }
    return c;
}

// What is random about a store: nothing, or a stream of bits that depends on parameter, step, buffer and element.
struct Dither {
    bool on;
    uint2 key;
    u32 step, buffer;
    u64 index;  // of the group's first element in its parameter
};

// To bf16, up or down at random.
__device__ __forceinline__ u32 dithered(float v, const Dither &d, u32 i) {
    if (!isfinite(v)) return bf16x2(v, 0.0f) & 0xffff;
    u64 at = d.index + i;
    uint4 words = philox({(u32)(at / 4), (u32)(at / 4 >> 32), d.step, d.buffer}, d.key);
    u32 lane = at % 4;
    u32 random = (lane < 2 ? (lane ? words.y : words.x) : (lane == 2 ? words.z : words.w)) & 0xffff;
    return (__float_as_uint(v) + random) >> 16;
}

__device__ __forceinline__ Raw narrow(const float (&v)[GROUP], u8 type, const Dither &dither) {
    u32 w[8] = {};
    if (type == F32) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) w[i] = __float_as_uint(v[i]);
    } else if (dither.on && type == BF16) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i += 2)
            w[i / 2] = dithered(v[i], dither, i) | dithered(v[i + 1], dither, i + 1) << 16;
    } else {
#pragma unroll
        for (u32 i = 0; i < GROUP; i += 2)
            w[i / 2] = type == BF16 ? bf16x2(v[i], v[i + 1]) : f16x2(v[i], v[i + 1]);
    }
    return {{w[0], w[1], w[2], w[3]}, {w[4], w[5], w[6], w[7]}};
}

__device__ __forceinline__ void store(u8 *p, u8 type, u64 at, const Raw &raw, bool together) {
    u8 *to = p + at * bytes_of(type);
    if (type != F32) return st_16(to, raw.low);
    const Places place = places(together);
    // The exchange is its own inverse but for which half is sent.
    const bool lower = lane_id() < 16;
    uint4 a = raw.low, b = raw.high;
    if (together) {
        uint4 other = from_other_half(choose(lower, raw.high, raw.low));
        a = choose(lower, raw.low, other);
        b = choose(lower, other, raw.high);
    }
    st_16(to + place.first, a);
    st_16(to + place.second, b);
}

__device__ __forceinline__ void store_some(u8 *p, u8 type, u64 at, const Raw &raw, u32 lo, u32 hi) {
    const u32 w[8] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w, raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i < lo || i >= hi) continue;
        if (type == F32)
            ((u32 *)p)[at + i] = w[i];
        else
            ((u16 *)p)[at + i] = (u16)(w[i / 2] >> (i % 2 * 16));
    }
}

// --- rules ---------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }

// sign(+-0) = 0, sign(NaN) = NaN
__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? 0.0f : x; }

__device__ __forceinline__ float guarded(float a, float b) { return b == 0.0f ? 0.0f : __fdiv_rn(a, b); }

// One element's values: the rules read and write these.
struct Element {
    float x, g, previous, m, v, largest, y;
};

// m takes in g; g becomes the vector for the LMO.
template <u32 RULE>
__device__ __forceinline__ void estimate(const Scalars &s, Element &e, bool first) {
    const float old0 = s.c[0], new0 = s.c[1];
    if (RULE == NONE) return;
    if (first) {
        e.m = e.g;
        if (RULE == NESTEROV) e.g = add(mul(new0, e.g), mul(old0, e.m));
        return;
    }
    if (RULE == HEAVY_BALL) e.m = add(mul(old0, e.m), e.g);
    if (RULE == EMA || RULE == NESTEROV) e.m = add(mul(old0, e.m), mul(new0, e.g));
    if (RULE == MVR) e.m = add(e.g, mul(old0, sub(e.m, e.previous)));
    if (RULE == LION) {
        float mixed = add(mul(old0, e.m), mul(new0, e.g));
        e.m = add(mul(s.c[2], e.m), mul(s.c[3], e.g));
        e.g = mixed;
    } else if (RULE == NESTEROV) {
        e.g = add(mul(new0, e.g), mul(old0, e.m));
    } else {
        e.g = e.m;
    }
}

// x = keep x - eta u, and for the extrapolated methods y.
__device__ __forceinline__ void apply(const Scalars &s, Element &e, float u) {
    bool decays = (s.flags & DECAYS) && (!(s.flags & CAUTIOUS) || mul(u, e.x) >= 0.0f);
    float moved = mul(s.eta, u);
    float lost = decays && (s.flags & EXTRAPOLATED) ? mul(s.lose, e.x) : 0.0f;
    float kept = decays ? mul(s.keep, e.x) : e.x;
    e.x = sub(kept, moved);
    if (s.flags & EXTRAPOLATED) e.y = sub(e.x, mul(s.reach, add(lost, moved)));
}

__device__ __forceinline__ void sgd(const Scalars &s, Element &e, bool momentum) {
    if (s.flags & DECAYS) e.g = add(e.g, mul(s.lose, e.x));
    float direction = e.g;
    if (momentum) {
        e.m = (s.flags & FIRST) ? e.g : add(mul(s.c[0], e.m), mul(s.c[1], e.g));
        direction = (s.flags & SGD_NESTEROV) ? add(e.g, mul(s.c[0], e.m)) : e.m;
    }
    e.x = sub(e.x, mul(s.eta, direction));
}

__device__ __forceinline__ void adamw(const Scalars &s, Element &e) {
    e.m = add(mul(s.c[0], e.m), mul(s.c[1], e.g));
    e.v = add(mul(s.c[2], e.v), mul(mul(s.c[3], e.g), e.g));
    float second = e.v;
    if (s.flags & AMSGRAD) {
        if (e.v > e.largest || isnan(e.v)) e.largest = e.v;
        second = e.largest;
    }
    float denominator = add(__fdiv_rn(__fsqrt_rn(second), s.reach), s.c[4]);
    float update = guarded(e.m, denominator);
    float kept = (s.flags & DECAYS) ? mul(s.keep, e.x) : e.x;
    e.x = sub(kept, mul(s.eta, update));
}

__device__ __forceinline__ void adagrad(const Scalars &s, Element &e) {
    if (s.flags & DECAYS) e.g = add(e.g, mul(s.lose, e.x));
    e.v = add(e.v, mul(e.g, e.g));
    e.x = sub(e.x, mul(s.eta, guarded(e.g, add(__fsqrt_rn(e.v), s.c[4]))));
}

// The working copies of a group of 8.
struct Values {
    float x[GROUP], g[GROUP], previous[GROUP], m[GROUP], v[GROUP], largest[GROUP], y[GROUP];

    // The rule is the same for all 8: it is chosen once.
    template <typename Body>
    __device__ __forceinline__ void each(Body body) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) {
            Element e = {x[i], g[i], previous[i], m[i], v[i], largest[i], 0.0f};
            body(e);
            x[i] = e.x, m[i] = e.m, v[i] = e.v, largest[i] = e.largest, y[i] = e.y;
        }
    }
};

template <u32 RULE>
__device__ __forceinline__ void sign_step(const Scalars &s, Values &w) {
    const bool first = s.flags & FIRST;
    w.each([&](Element &e) {
        estimate<RULE>(s, e, first);
        apply(s, e, sign(e.g));
    });
}

__device__ __forceinline__ void update(const Scalars &s, Values &w, bool momentum) {
    if (s.factor != 1.0f) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) w.g[i] = mul(w.g[i], s.factor), w.previous[i] = mul(w.previous[i], s.factor);
    }
    switch (s.rule) {
    case NONE: sign_step<NONE>(s, w); break;
    case HEAVY_BALL: sign_step<HEAVY_BALL>(s, w); break;
    case EMA: sign_step<EMA>(s, w); break;
    case NESTEROV: sign_step<NESTEROV>(s, w); break;
    case LION: sign_step<LION>(s, w); break;
    case MVR: sign_step<MVR>(s, w); break;
    case SGD: w.each([&](Element &e) { sgd(s, e, momentum); }); break;
    case ADAMW: w.each([&](Element &e) { adamw(s, e); }); break;
    case ADAGRAD: w.each([&](Element &e) { adagrad(s, e); }); break;
    }
}

// --- the pass ------------------------------------------------------------------------------------------------------

// 8 elements from `at` on. WHOLE: all of them, at 16-byte boundaries (TOGETHER: for the whole warp); else those from `lo` to
// `hi`.
template <bool WHOLE>
__device__ __forceinline__ void step(const Segment &t, const Scalars &s, u64 at, u32 lo, u32 hi, bool together) {
    auto get = [&](const u8 *p, u8 type) {
        return WHOLE ? load<false>(p, type, at, together) : load_some(p, type, at, lo, hi);
    };
    auto get_once = [&](const u8 *p, u8 type) {
        return WHOLE ? load<true>(p, type, at, together) : load_some(p, type, at, lo, hi);
    };
    auto open = [&](const Raw &raw, u8 type, float (&out)[GROUP]) {
        widen(WHOLE ? arrived(raw, type, together) : raw, type, out);
    };
    auto put = [&](u8 *p, u8 type, const float (&v)[GROUP], bool random, u32 buffer) {
        Dither dither = {random, {t.key[0], t.key[1]}, s.step, buffer, t.index + at};
        Raw raw = narrow(v, type, dither);
        WHOLE ? store(p, type, at, raw, together) : store_some(p, type, at, raw, lo, hi);
    };
    const bool previous = t.previous != nullptr, momentum = t.momentum != nullptr, variance = t.variance != nullptr,
               largest = t.largest != nullptr, full = t.full != nullptr, random = s.flags & STOCHASTIC;

    Raw rg = get_once(t.gradient, t.type_gradient), rx = {}, rp = {}, rm = {}, rv = {}, rl = {};
    rx = full ? get(t.full, t.type_full) : get(t.visible, t.type_visible);
    if (previous) rp = get_once(t.previous, t.type_previous);
    if (momentum) rm = get(t.momentum, t.type_momentum);
    if (variance) rv = get(t.variance, t.type_variance);
    if (largest) rl = get(t.largest, t.type_variance);

    Values w = {};
    open(rg, t.type_gradient, w.g);
    open(rx, full ? t.type_full : t.type_visible, w.x);
    if (previous) open(rp, t.type_previous, w.previous);
    if (momentum) open(rm, t.type_momentum, w.m);
    if (variance) open(rv, t.type_variance, w.v);
    if (largest) open(rl, t.type_variance, w.largest);
    update(s, w, momentum);
    // A parameter with a full-precision copy is that copy's rounding, never a random one.
    if (full) {
        if (s.flags & EXTRAPOLATED)
            put(t.visible, t.type_visible, w.y, false, 0);
        else
            put(t.visible, t.type_visible, w.x, false, 0);
        put(t.full, t.type_full, w.x, false, 0);
    } else {
        put(t.visible, t.type_visible, w.x, random, 0);
    }
    if (momentum) put(t.momentum, t.type_momentum, w.m, random, 1);
    if (variance) put(t.variance, t.type_variance, w.v, random, 2);
    if (largest) put(t.largest, t.type_variance, w.largest, random, 3);
}

// All chunks of all segments, dealt out to the blocks in turn.
extern "C" __global__ void __launch_bounds__(THREADS, 5)
    elementwise(const Segment *segments, const Scalars *scalars, const Chunk *chunks, u32 count) {
    // A chunk's descriptions are read from global memory once: loads in the inner loop would be traffic beside the tensors'.
    __shared__ Segment t;
    __shared__ Scalars s;
    __shared__ u64 from;
    const u32 words = sizeof(Segment) / 16, more = sizeof(Scalars) / 16;
    for (u32 c = blockIdx.x; c < count; c += gridDim.x) {
        __syncthreads();
        if (threadIdx.x < words + more) {
            const Chunk chunk = chunks[c];
            if (threadIdx.x < words)
                ((uint4 *)&t)[threadIdx.x] = ld_16((const uint4 *)&segments[chunk.segment] + threadIdx.x);
            else
                ((uint4 *)&s)[threadIdx.x - words] = ld_16((const uint4 *)&scalars[chunk.segment] + threadIdx.x - words);
            if (threadIdx.x == 0) from = chunk.chunk * CHUNK;
        }
        __syncthreads();
        // Positions count from the boundary before the first element, so that groups begin at 16 bytes.
        const u64 before = (GROUP - t.shift) % GROUP;
        const u64 end = t.numel + before;
        const u64 stop = from + CHUNK < end ? from + CHUNK : end;
        for (u64 warp = from + threadIdx.x / 32 * 32 * GROUP; warp < stop; warp += THREADS * GROUP) {
            const u64 at = warp + lane_id() * GROUP;
            if (at >= end) continue;
            const bool together = t.aligned && warp >= before && warp + 32 * GROUP <= end;
            const u32 lo = at < before ? (u32)(before - at) : 0;
            const u32 hi = end - at < GROUP ? (u32)(end - at) : GROUP;
            // The first group may begin before the buffer: only its elements from `lo` on are touched.
            if (t.aligned && lo == 0 && hi == GROUP)
                step<true>(t, s, at - before, 0, GROUP, together);
            else
                step<false>(t, s, at - before, lo, hi, false);
        }
    }
}
