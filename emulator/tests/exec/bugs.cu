// Planted bugs and their mended twins: `name_bug` must be reported at the line marked `BUG name` (of two that
// disagree, whichever comes second: `ALSO name`), `name_ok` must pass.
// bugs.sm_80.ptx beside this file is what NVRTC 12.9.86 makes of it, by tests/ptx/fixtures/compile.py run on a copy of
// both in one folder.
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL template <bool BUG> __device__ __forceinline__ void
#define PAIR(name)                                                                                  \
    extern "C" __global__ void name##_bug(float* x, float* y, u32 n) { name<true>(x, y, n); }       \
    extern "C" __global__ void name##_ok(float* x, float* y, u32 n) { name<false>(x, y, n); }

__device__ float eight[8] = {1, 2, 3, 4, 5, 6, 7, 8};
__constant__ float fixed[4] = {1, 2, 3, 4};
extern __shared__ float dynamic[];

KERNEL tail(float* x, float* y, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (BUG ? i <= n : i < n)
        y[i] =
            x[i];  // BUG tail
}
PAIR(tail)

KERNEL misaligned(float* x, float* y, u32 n) {
    const float4* p = (const float4*)(x + (BUG ? 1 : 0));
    float4 v = p[threadIdx.x];  // BUG misaligned
    y[threadIdx.x] = v.x + v.w;
}
PAIR(misaligned)

KERNEL dropped_sync(float* x, float* y, u32 n) {
    __shared__ float s[64];
    s[threadIdx.x] = 0.f;
    __syncthreads();
    s[threadIdx.x] = x[threadIdx.x];
    if (!BUG) __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];  // BUG dropped_sync
}
PAIR(dropped_sync)

KERNEL dropped_syncwarp(float* x, float* y, u32 n) {
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    if (!BUG) __syncwarp();
    y[threadIdx.x] = s[31 - threadIdx.x];  // BUG dropped_syncwarp
}
PAIR(dropped_syncwarp)

KERNEL second_round(float* x, float* y, u32 n) {
    __shared__ float s;
    for (u32 k = 0; k < 2; ++k) {
        if (threadIdx.x == 0) s = x[k];  // BUG second_round
        __syncthreads();
        y[threadIdx.x] += s;
        if (!BUG) __syncthreads();
    }
}
PAIR(second_round)

KERNEL int_overflow(float* x, float* y, u32 n) {
    u64 wide = (u64)threadIdx.x * n;
    int narrow = (int)threadIdx.x * (int)n;
    x[BUG ? (long long)narrow : (long long)wide] = 1.f;  // BUG int_overflow
}
PAIR(int_overflow)

KERNEL no_acquire(float* x, float* y, u32 n) {
    volatile u32* flag = (volatile u32*)y;
    if (blockIdx.x == 0) {
        x[0] = 7.f;
        __threadfence();
        *flag = 1;
    } else {
        while (*flag == 0) {}
        if (!BUG) __threadfence();
        y[1] = x[0];  // BUG no_acquire
    }
}
PAIR(no_acquire)

KERNEL no_release(float* x, float* y, u32 n) {
    volatile u32* flag = (volatile u32*)y;
    if (blockIdx.x == 0) {
        x[0] = 7.f;
        if (!BUG) __threadfence();
        *flag = 1;
    } else {
        while (*flag == 0) {}
        __threadfence();
        y[1] = x[0];  // BUG no_release
    }
}
PAIR(no_release)

KERNEL others_fence(float* x, float* y, u32 n) {
    __shared__ u32 last;
    x[blockIdx.x * blockDim.x + threadIdx.x] = 2.f;
    if (BUG) __threadfence_block(); else __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        if (!BUG) __threadfence();
        last = atomicAdd((u32*)y, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last) {
        float sum = 0;
        for (u32 b = 0; b < gridDim.x; ++b)
            sum += x[b * blockDim.x + threadIdx.x];  // BUG others_fence
        y[1 + threadIdx.x] = sum;
    }
}
PAIR(others_fence)

KERNEL neighbour(float* x, float* y, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = 1.f;
    u32 j = BUG ? (i + blockDim.x) % (gridDim.x * blockDim.x) : i;
    x[i] = y[j];  // BUG neighbour
}
PAIR(neighbour)

KERNEL one_cell(float* x, float* y, u32 n) {
    if (threadIdx.x == 0)
        y[BUG ? 0 : blockIdx.x] = x[blockIdx.x];  // BUG one_cell
}
PAIR(one_cell)

KERNEL narrow_scope(float* x, float* y, u32 n) {
    if (BUG)
        atomicAdd_block((u32*)y, 1u);  // BUG narrow_scope
    else
        atomicAdd((u32*)y, 1u);
}
PAIR(narrow_scope)

KERNEL plain_beside_atomic(float* x, float* y, u32 n) {
    __shared__ u32 count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1u);
    if (!BUG) __syncthreads();
    y[threadIdx.x] = count;  // BUG plain_beside_atomic
}
PAIR(plain_beside_atomic)

KERNEL divergent_barrier(float* x, float* y, u32 n) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    if (BUG ? threadIdx.x < 48 : threadIdx.x < 32) {
        s[threadIdx.x] += 1.f;
        asm volatile("bar.sync 0;" ::: "memory");  // BUG divergent_barrier
        y[threadIdx.x] = s[threadIdx.x];
    } else {
        asm volatile("bar.sync 0;" ::: "memory");
    }
    y[threadIdx.x] = s[63 - threadIdx.x];
}
PAIR(divergent_barrier)

KERNEL barrier_counts(float* x, float* y, u32 n) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 64;" ::: "memory");  // ALSO barrier_counts
    else if (threadIdx.x >= 64)
        return;
    else if (BUG)
        asm volatile("bar.sync 1, 96;" ::: "memory");  // BUG barrier_counts
    else
        asm volatile("bar.sync 1, 64;" ::: "memory");
}
PAIR(barrier_counts)

KERNEL too_few(float* x, float* y, u32 n) {
    if (threadIdx.x < 64) {
        if (BUG)
            asm volatile("bar.sync 1, 96;" ::: "memory");  // BUG too_few
        else
            asm volatile("bar.sync 1, 64;" ::: "memory");
    }
}
PAIR(too_few)

KERNEL uninitialised(float* x, float* y, u32 n) {
    if (!BUG) y[threadIdx.x] = 0.f;
    y[threadIdx.x] += x[threadIdx.x];  // BUG uninitialised
}
PAIR(uninitialised)

KERNEL uninitialised_shared(float* x, float* y, u32 n) {
    __shared__ float s[64];
    if (BUG ? threadIdx.x != 5 : true) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];  // BUG uninitialised_shared
}
PAIR(uninitialised_shared)

KERNEL uninitialised_local(float* x, float* y, u32 n) {
    float local[32];
    for (u32 k = BUG ? 1 : 0; k < 32; ++k) local[(k * n) % 32] = x[k];
    y[threadIdx.x] = local[(threadIdx.x * n) % 32];  // BUG uninitialised_local
}
PAIR(uninitialised_local)

KERNEL outside_shared(float* x, float* y, u32 n) {
    dynamic[threadIdx.x + (BUG ? 1 : 0)] = x[threadIdx.x];  // BUG outside_shared
}
PAIR(outside_shared)

KERNEL outside_table(float* x, float* y, u32 n) {
    y[threadIdx.x] = eight[BUG ? threadIdx.x + 1 : threadIdx.x];  // BUG outside_table
}
PAIR(outside_table)

KERNEL write_constant(float* x, float* y, u32 n) {
    float* p = BUG ? (float*)fixed : y;
    asm volatile("" : "+l"(p));
    p[threadIdx.x] = 1.f;  // BUG write_constant
}
PAIR(write_constant)

KERNEL non_coherent(float* x, float* y, u32 n) {
    x[threadIdx.x] = 3.f;
    y[threadIdx.x] = BUG ? __ldg(x + threadIdx.x) : x[threadIdx.x];  // BUG non_coherent
}
PAIR(non_coherent)

KERNEL missing_lanes(float* x, float* y, u32 n) {
    float v = x[threadIdx.x];
    if (threadIdx.x < 16)
        v += __shfl_xor_sync(BUG ? 0xffffffffu : 0xffffu, v, 8);  // BUG missing_lanes
    y[threadIdx.x] = v;
}
PAIR(missing_lanes)

KERNEL exited_lanes(float* x, float* y, u32 n) {
    if (BUG && threadIdx.x >= 20) return;
    float v = x[threadIdx.x];
    y[threadIdx.x] =
        __shfl_down_sync(0xffffffffu, v, 4);  // BUG exited_lanes
}
PAIR(exited_lanes)

KERNEL own_lane(float* x, float* y, u32 n) {
    y[threadIdx.x] =
        __ballot_sync(BUG ? 0xfffffffeu : 0xffffffffu, x[threadIdx.x] > 0.f);  // BUG own_lane
}
PAIR(own_lane)

KERNEL never_set(float* x, float* y, u32 n) {
    volatile u32* flag = (volatile u32*)y;
    if (threadIdx.x == 0 && !BUG) *flag = 1;
    while (*flag == 0) {}  // BUG never_set
}
PAIR(never_set)

KERNEL barrier_and_spin(float* x, float* y, u32 n) {
    __shared__ volatile u32 ready;
    if (threadIdx.x == 0) ready = 0;
    __syncthreads();
    if (threadIdx.x < 32) {
        if (!BUG && threadIdx.x == 0) ready = 1;
        __syncthreads();
    } else {
        while (ready == 0) {}  // BUG barrier_and_spin
        __syncthreads();
    }
}
PAIR(barrier_and_spin)

KERNEL too_many_blocks(float* x, float* y, u32 n) {
    u32* counter = (u32*)y;
    if (threadIdx.x == 0) {
        u32 ticket = atomicAdd(counter, 1u);
        u32 wanted = BUG ? gridDim.x : ticket + 1;
        while (*(volatile u32*)counter < wanted) {}  // BUG too_many_blocks
    }
}
PAIR(too_many_blocks)

template <bool BUG>
__device__ __noinline__ u32 deep(u32 n) {
    if (!BUG && n == 0) return 0;
    u32 scratch[4] = {n, n + 1, n + 2, n + 3};
    return deep<BUG>(n - 1) + scratch[n & 3];  // BUG endless_recursion
}
KERNEL endless_recursion(float* x, float* y, u32 n) { y[threadIdx.x] = deep<BUG>(threadIdx.x & 7); }
PAIR(endless_recursion)

KERNEL wild_call(float* x, float* y, u32 n) {
    typedef void (*Callee)(u32);
    u64 where = *(u64*)x;
    if (BUG) ((Callee)where)(n);  // BUG wild_call
}
PAIR(wild_call)

KERNEL gives_up(float* x, float* y, u32 n) {
    if (x[threadIdx.x] != 1.f || BUG)
        __trap();  // BUG gives_up
}
PAIR(gives_up)

KERNEL freed(float* x, float* y, u32 n) {
    float* p = *(float**)x;
    y[threadIdx.x] = p[threadIdx.x];  // BUG freed
}
PAIR(freed)

extern "C" __device__ void __assertfail(const char*, const char*, u32, const char*, size_t);
KERNEL asserts(float* x, float* y, u32 n) {
    if (x[threadIdx.x] != (BUG && threadIdx.x == 3 ? 2.f : 1.f))
        __assertfail("x is one", "bugs.cu", 7, "asserts", 1);  // BUG asserts
}
PAIR(asserts)
