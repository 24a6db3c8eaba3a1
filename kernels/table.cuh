// What the kernels read beside tensors: the device table, the control block, the scalars of a step. The host's side of each
// structure is in src/cuda/table.rs; both check sizes and offsets.
#pragma once

#include "ptx.cuh"

// Types of buffers.
enum Type : u8 { F32 = 0, BF16 = 1, F16 = 2, ABSENT = 3 };

// What a group does. The first six are estimators of the trust-region family with the sign as its LMO.
enum Rule : u32 { NONE = 0, HEAVY_BALL = 1, EMA = 2, NESTEROV = 3, LION = 4, MVR = 5, SGD = 8, ADAMW = 9, ADAGRAD = 10 };

// Flags of a group.
enum : u32 {
    MAXIMIZE = 1,
    STARTS_FROM_GRADIENT = 2,  // the first step's momentum is the gradient
    CAUTIOUS = 4,              // decay only where parameter and direction agree
    CONVEX = 8,                // x = (1 - lr) x - lr u
    EXTRAPOLATED = 16,         // the parameter shows y, the state holds x
    STOCHASTIC = 32,           // 16-bit stores are rounded at random
    SGD_NESTEROV = 64,
    AMSGRAD = 128,
};
// Flags of a step's scalars, beside those.
enum : u32 { FIRST = 1 << 16, DECAYS = 1 << 17 };

// One matrix of a parameter, or all of it: elements that share their scalars and lie one after the other.
struct __align__(16) Segment {
    u8 *visible;         // the parameter
    const u8 *gradient;
    const u8 *previous;  // the gradient at the previous point (MVR)
    u8 *full;            // full-precision parameter: f32 master, or x of the extrapolated methods
    u8 *momentum;
    u8 *variance;
    u8 *largest;         // largest variance (amsgrad)
    u64 numel;
    u64 index;           // of the first element in its parameter: what random bits depend on
    double scale;        // factor on the learning rate
    u32 parameter;
    u32 group;
    u32 key[2];          // of random bits: from the parameter's name
    u8 type_visible, type_gradient, type_previous, type_full, type_momentum, type_variance;
    u8 shift;            // elements of the first, partial group of 8
    u8 aligned;          // whether all buffers have a 16-byte boundary there
    u8 pad[24];
};
static_assert(sizeof(Segment) == 128, "the host writes 128 bytes a segment");

// 16,384 elements of a segment.
struct __align__(8) Chunk {
    u32 segment, chunk;
};

// The hyperparameters of a group, as the host gave them. `c`: momentum | alpha | beta1, beta2 | dampening, eps, lr_decay.
struct __align__(16) Group {
    double lr, weight_decay;
    double c[4];
    u32 rule, flags;
    u32 seed[2];
};
static_assert(sizeof(Group) == 64, "the host writes 64 bytes a group");

// What one step of one segment needs, rounded once from double as the reference does.
struct __align__(16) Scalars {
    float factor;      // on gradients: clipping, and -1 for ascent
    float eta;         // lr * scale, or the step size of a rule beside the family
    float keep, lose;  // 1 - lr * weight_decay, and what that leaves out
    float reach;       // of the extrapolation; AdamW: root of the bias correction
    float c[5];
    u32 rule, flags, step;
    u32 pad[3];
};
static_assert(sizeof(Scalars) == 64, "64 bytes a segment");
