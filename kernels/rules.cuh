// The update rules on a thread's elements, operation by operation as in src/reference/rules.rs.
#pragma once

#include "vector.cuh"

// Types, rules and flags are uniform over a chunk. What depends on them is chosen outside the loops over a thread's 8
// elements: a choice inside costs an instruction or more an element, and the whole of Lion is some fifteen.

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }

// `size` with the sign of `x`; sign(+-0) = 0, sign(NaN) = NaN.
__device__ __forceinline__ float signed_like(float size, float x) {
    const float same = __uint_as_float((__float_as_uint(x) & 0x80000000u) ^ __float_as_uint(size));
    return x < 0.0f || x > 0.0f ? same : fabsf(x);
}

__device__ __forceinline__ float guarded(float a, float b) { return b == 0.0f ? 0.0f : __fdiv_rn(a, b); }

// The working copies of a thread's elements. The rules read and write these.
template <u32 N>
struct Values {
    float x[N], g[N], previous[N], m[N], v[N], largest[N], y[N];

    template <typename Body>
    static __device__ __forceinline__ void each(Body body) {
#pragma unroll
        for (u32 i = 0; i < N; i++) body(i);
    }
};

template <u32 N>
__device__ __forceinline__ void scale_gradients(const Scalars &s, Values<N> &w, bool previous) {
    if (s.factor == 1.0f) return;
    w.each([&](u32 i) { w.g[i] = mul(w.g[i], s.factor); });
    if (previous) w.each([&](u32 i) { w.previous[i] = mul(w.previous[i], s.factor); });
}

// m takes in g; g becomes the vector for the LMO.
template <u32 N>
__device__ __forceinline__ void estimate(const Scalars &s, Values<N> &w) {
    const float old0 = s.c[0], new0 = s.c[1];
    if (s.rule == NONE) return;
    if (s.flags & FIRST) {
        w.each([&](u32 i) { w.m[i] = w.g[i]; });
        if (s.rule == NESTEROV) w.each([&](u32 i) { w.g[i] = add(mul(new0, w.g[i]), mul(old0, w.m[i])); });
        return;
    }
    switch (s.rule) {
    case HEAVY_BALL: w.each([&](u32 i) { w.g[i] = w.m[i] = add(mul(old0, w.m[i]), w.g[i]); }); break;
    case EMA: w.each([&](u32 i) { w.g[i] = w.m[i] = add(mul(old0, w.m[i]), mul(new0, w.g[i])); }); break;
    case MVR: w.each([&](u32 i) { w.g[i] = w.m[i] = add(w.g[i], mul(old0, sub(w.m[i], w.previous[i]))); }); break;
    case NESTEROV:
        w.each([&](u32 i) {
            w.m[i] = add(mul(old0, w.m[i]), mul(new0, w.g[i]));
            w.g[i] = add(mul(new0, w.g[i]), mul(old0, w.m[i]));
        });
        break;
    case LION:
        w.each([&](u32 i) {
            const float mixed = add(mul(old0, w.m[i]), mul(new0, w.g[i]));
            w.m[i] = add(mul(s.c[2], w.m[i]), mul(s.c[3], w.g[i]));
            w.g[i] = mixed;
        });
        break;
    }
}

// g is the vector for the LMO: x = keep x - eta u, and for the extrapolated methods y.
template <u32 N>
__device__ __forceinline__ void apply(const Scalars &s, Values<N> &w) {
    const bool normalised = s.flags & NORMALISED, extrapolated = s.flags & EXTRAPOLATED;
    if (normalised) w.each([&](u32 i) { w.g[i] = mul(mul(mul(w.g[i], s.first), s.second), s.inverse); });
    if (s.flags & CAUTIOUS) {
        // Decay only where parameter and direction agree.
        w.each([&](u32 i) {
            const float u = normalised ? w.g[i] : signed_like(1.0f, w.g[i]);
            const bool decays = (s.flags & DECAYS) && mul(u, w.x[i]) >= 0.0f;
            const float moved = mul(s.eta, u);
            const float lost = decays ? mul(s.lose, w.x[i]) : 0.0f;
            w.x[i] = sub(decays ? mul(s.keep, w.x[i]) : w.x[i], moved);
            w.y[i] = sub(w.x[i], mul(s.reach, add(lost, moved)));
        });
        return;
    }
    if (normalised)
        w.each([&](u32 i) { w.g[i] = mul(s.eta, w.g[i]); });
    else
        w.each([&](u32 i) { w.g[i] = signed_like(s.eta, w.g[i]); });
    if (extrapolated) {
        if (s.flags & DECAYS)
            w.each([&](u32 i) {
                const float lost = mul(s.lose, w.x[i]);
                w.x[i] = sub(mul(s.keep, w.x[i]), w.g[i]);
                w.y[i] = sub(w.x[i], mul(s.reach, add(lost, w.g[i])));
            });
        else
            w.each([&](u32 i) {
                w.x[i] = sub(w.x[i], w.g[i]);
                w.y[i] = sub(w.x[i], mul(s.reach, add(0.0f, w.g[i])));
            });
    } else if (s.flags & DECAYS) {
        w.each([&](u32 i) { w.x[i] = sub(mul(s.keep, w.x[i]), w.g[i]); });
    } else {
        w.each([&](u32 i) { w.x[i] = sub(w.x[i], w.g[i]); });
    }
}

template <u32 N>
__device__ __forceinline__ void decay_into_gradients(const Scalars &s, Values<N> &w) {
    if (s.flags & DECAYS) w.each([&](u32 i) { w.g[i] = add(w.g[i], mul(s.lose, w.x[i])); });
}

template <u32 N>
__device__ __forceinline__ void sgd(const Scalars &s, Values<N> &w, bool momentum) {
    decay_into_gradients(s, w);
    if (momentum) {
        if (s.flags & FIRST)
            w.each([&](u32 i) { w.m[i] = w.g[i]; });
        else
            w.each([&](u32 i) { w.m[i] = add(mul(s.c[0], w.m[i]), mul(s.c[1], w.g[i])); });
        if (s.flags & SGD_NESTEROV)
            w.each([&](u32 i) { w.g[i] = add(w.g[i], mul(s.c[0], w.m[i])); });
        else
            w.each([&](u32 i) { w.g[i] = w.m[i]; });
    }
    w.each([&](u32 i) { w.x[i] = sub(w.x[i], mul(s.eta, w.g[i])); });
}

template <u32 N>
__device__ __forceinline__ void adamw(const Scalars &s, Values<N> &w) {
    w.each([&](u32 i) {
        w.m[i] = add(mul(s.c[0], w.m[i]), mul(s.c[1], w.g[i]));
        w.v[i] = add(mul(s.c[2], w.v[i]), mul(mul(s.c[3], w.g[i]), w.g[i]));
        w.g[i] = w.v[i];
    });
    if (s.flags & AMSGRAD)
        w.each([&](u32 i) {
            if (w.v[i] > w.largest[i] || isnan(w.v[i])) w.largest[i] = w.v[i];
            w.g[i] = w.largest[i];
        });
    if (s.flags & DECAYS) w.each([&](u32 i) { w.x[i] = mul(s.keep, w.x[i]); });
    w.each([&](u32 i) {
        const float denominator = add(mul(__fsqrt_rn(w.g[i]), s.reach), s.c[4]);
        w.x[i] = sub(w.x[i], mul(s.eta, guarded(w.m[i], denominator)));
    });
}

template <u32 N>
__device__ __forceinline__ void adagrad(const Scalars &s, Values<N> &w) {
    decay_into_gradients(s, w);
    w.each([&](u32 i) {
        w.v[i] = add(w.v[i], mul(w.g[i], w.g[i]));
        w.x[i] = sub(w.x[i], mul(s.eta, guarded(w.g[i], add(__fsqrt_rn(w.v[i]), s.c[4]))));
    });
}

// Rules by the buffers that they have: each family is code of its own, so that none holds registers for another's.
enum Family { TRUST_REGION, DESCENT, ADAPTIVE };

template <u32 N, Family FAMILY>
__device__ __forceinline__ void update(const Scalars &s, Values<N> &w, bool momentum, bool previous) {
    scale_gradients(s, w, previous);
    if (FAMILY == DESCENT) return sgd(s, w, momentum);
    if (FAMILY == ADAPTIVE) return s.rule == ADAMW ? adamw(s, w) : adagrad(s, w);
    estimate(s, w);
    apply(s, w);
}
