// What the kernels read beside tensors: the device tables, the control block, the scalars of a step. The host's side of each
// structure is in src/cuda/table.rs; both check sizes and offsets.
#pragma once

#include "ptx.cuh"

// Types of buffers. LOW: the 16 bits that complete a bf16 parameter to an f32 master.
enum Type : u8 { F32 = 0, BF16 = 1, F16 = 2, ABSENT = 3, LOW = 4 };

// What a group does. The first six are estimators of the trust-region family.
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
    NORMALISED = 256,          // the direction is m / ||m||, not sign(m)
};
// Flags of a step's scalars, beside those.
enum : u32 { FIRST = 1 << 16, DECAYS = 1 << 17, SKIP = 1 << 18 };

// Elements of one matrix of a parameter that share their scalars and lie one after the other in every buffer: all of it, or a
// row where a buffer has gaps.
struct __align__(16) Segment {
    u8 *visible;         // the parameter
    const u8 *gradient;  // null: the parameter is left alone
    const u8 *previous;  // the gradient at the previous point (MVR)
    u8 *full;            // full-precision parameter: f32 master, its low bits, or x of the extrapolated methods
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
    u8 plain;            // whether none is f32, and there is neither `previous` nor `full`
    u8 pad[3];
    u32 first_chunk, chunks;  // its part of the list of chunks
    u32 more[3];
};
static_assert(sizeof(Segment) == 128, "the host writes 128 bytes a segment");

// A matrix of a parameter as norms and scans see it. Rows of gradients may have gaps between them; state has none.
struct __align__(16) Matrix {
    const u8 *gradient, *previous, *momentum;
    const u8 *held;  // AdaGrad's sums, which leave so much less room for squares
    u64 numel, columns;
    u64 gradient_stride, previous_stride;  // elements from one row to the next
    u64 offset;                            // of the first element in its parameter
    double eps;                            // of the norm's division
    u32 parameter, group;
    u32 first_segment, segments;
    u32 first_task, tasks;
    u8 type_gradient, type_previous, type_momentum, type_held;
    u8 aligned;    // whether every buffer is contiguous and begins at a 16-byte boundary
    u8 eps_added;  // to the norm; else it is the least norm
    u8 pad[18];
};
static_assert(sizeof(Matrix) == 128, "the host writes 128 bytes a matrix");

// 4,096 elements of a matrix: a block of the flat order of src/reference/reduce.rs.
struct __align__(8) Task {
    u32 matrix, block;
};

struct Range {
    u32 first, count;
};

// The head of the control block, as the host gave it. The groups follow.
struct __align__(16) Control {
    double max_grad_norm, loss_scale;
    u32 clips;  // whether gradients are brought to max_grad_norm
    u32 scans;  // whether non-finite gradients, or ones too large for their state, refuse the step
    u64 pad;
};
static_assert(sizeof(Control) == 32, "the host writes 32 bytes");

// The hyperparameters of a group, as the host gave them. `c`: momentum | alpha | beta1, beta2 | dampening, eps, lr_decay.
struct __align__(16) Group {
    double lr, weight_decay;
    double c[4];
    u32 rule, flags;
    double limit;  // largest gradient that the state takes in; AdaGrad: largest sum that it can hold
};
static_assert(sizeof(Group) == 64, "the host writes 64 bytes a group");

// ELSEWHERE: what the caller made of the scalars refuses the step, and nothing here does.
enum Verdict : u32 { APPLIED = 0, NON_FINITE = 1, OVERFLOW = 2, ELSEWHERE = 3 };

// What became of a step: an entry of the ring that the host reads.
struct __align__(16) Entry {
    u64 step;              // counts from 1
    u64 applied, skipped;  // so far, this one included
    double norm, clip;
    u64 index;             // of the element that is not finite, in its parameter
    double value, limit;   // of a gradient that is too large
    u32 parameter;         // which of them, in the order of registration
    u32 verdict;
    float bad;             // the element that is not finite
    u32 pad;
    u64 seal;              // the step again: the entry is whole
    u64 fallbacks;         // orthogonalisations that the safe iteration did
};
static_assert(sizeof(Entry) == 96, "the host reads 96 bytes an entry");
const u32 ENTRIES = 64;

// The root mean square of what each group's parameters moved by is a double for each group behind the ring, with the step
// as the last word, for each entry of the ring: where steps measure it.

// What the device keeps from step to step.
struct __align__(16) Status {
    u64 steps, applied, skipped;
    double factor;  // on this step's gradients: clipping, and the loss scale divided out
    u32 apply;
    u32 pad;
    // What a step is decided from. The caller may have reduced them over several cards since `decide` wrote them.
    double squares;    // of all gradients, where they are clipped
    double found;      // 1 where one is not finite, else 0
    double too_large;  // the most that a gradient is of what its state takes in
    Entry ring[ENTRIES];
};
static_assert(sizeof(Status) == 64 + ENTRIES * sizeof(Entry), "the host knows where the ring begins");

// What one step of one segment needs, rounded once from double as the reference does.
struct __align__(16) Scalars {
    float factor;      // on gradients: clipping, loss scale, and -1 for ascent
    float eta;         // lr * scale, or the step size of a rule beside the family
    float keep, lose;  // 1 - lr * weight_decay, and what that leaves out
    float reach;       // of the extrapolation; AdamW: inverse root of the bias correction
    float c[5];
    u32 rule, flags, step;
    float first, second, inverse;  // x * first * second * inverse is x divided by its norm
};
static_assert(sizeof(Scalars) == 64, "64 bytes a segment");

// Counts a step, says whether it is applied, and tells the host.
__device__ __forceinline__ void conclude(Status &status, Entry &e, double factor) {
    const bool applied = e.verdict == APPLIED;
    e.step = e.seal = status.steps + 1;
    e.applied = status.applied + (applied ? 1 : 0);
    e.skipped = status.skipped + (applied ? 0 : 1);
    status.steps = e.step, status.applied = e.applied, status.skipped = e.skipped;
    status.factor = factor;
    status.apply = applied;
    status.ring[(e.step - 1) % ENTRIES] = e;
}
