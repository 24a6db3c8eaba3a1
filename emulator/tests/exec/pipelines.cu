// Planted bugs of pipelines through shared memory and of whole-warp instructions, each with its mended twin, in the form
// of bugs.cu. pipelines.sm_80.ptx beside this file is what NVRTC 12.9.86 makes of it, by tests/ptx/fixtures/compile.py run
// on a copy of both in one folder. Macros rather than functions: so a report's line is the line here.
typedef unsigned int u32;
typedef unsigned char u8;
#define KERNEL template <bool BUG> __device__ __forceinline__ void
#define PAIR(name)                                                                                  \
    extern "C" __global__ void name##_bug(float* x, float* y, u32 n) { name<true>(x, y, n); }       \
    extern "C" __global__ void name##_ok(float* x, float* y, u32 n) { name<false>(x, y, n); }

#define TO(p) "r"((u32)__cvta_generic_to_shared(p))
#define COPY(to, from) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::TO(to), "l"(from) : "memory")
#define COPY_SOME(to, from, bytes) \
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::TO(to), "l"(from), "r"(bytes) : "memory")
#define COMMIT asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
#define WAIT_ALL asm volatile("cp.async.wait_all;" ::: "memory")
#define MATRICES(r, from)                                                                \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"      \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                        \
                 : TO(from)                                                              \
                 : "memory")
#define PRODUCT(d, a)                                                                                             \
    asm volatile(                                                                                                 \
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%4, %5}, "      \
        "{%0, %1, %2, %3};"                                                                                       \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                          \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]))
#define SHARED(name, count) __shared__ __align__(128) float name[count]

// Own and next warp's thread.
#define OWN (threadIdx.x * 4)
#define OTHERS ((threadIdx.x ^ 32) * 4)

KERNEL missing_wait(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);  // ALSO missing_wait
    COMMIT;
    if (!BUG) WAIT(0);
    y[threadIdx.x] = s[OWN];  // BUG missing_wait
    WAIT(0);
}
PAIR(missing_wait)

KERNEL wait_off_by_one(float* x, float* y, u32 n) {
    SHARED(s, 512);
    COPY(s + OWN, x + OWN);
    COMMIT;
    COPY(s + 256 + OWN, x + OWN);
    COMMIT;
    if (BUG) WAIT(1); else WAIT(0);
    y[threadIdx.x] = s[OWN] + s[256 + OWN];  // BUG wait_off_by_one
    WAIT(0);
}
PAIR(wait_off_by_one)

KERNEL missing_barrier(float* x, float* y, u32 n) {
    SHARED(s, 256);
    s[threadIdx.x * 4] = 0.f;
    __syncthreads();
    COPY(s + OWN, x + OWN);  // ALSO missing_barrier
    COMMIT;
    WAIT(0);
    if (!BUG) __syncthreads();
    y[threadIdx.x] = s[OTHERS];  // BUG missing_barrier
}
PAIR(missing_barrier)

KERNEL barrier_before_wait(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);  // ALSO barrier_before_wait
    COMMIT;
    if (BUG) __syncthreads();
    WAIT(0);
    if (!BUG) __syncthreads();
    y[threadIdx.x] = s[OTHERS];  // BUG barrier_before_wait
}
PAIR(barrier_before_wait)

KERNEL missing_syncwarp(float* x, float* y, u32 n) {
    SHARED(s, 128);
    COPY(s + OWN, x + OWN);  // ALSO missing_syncwarp
    WAIT_ALL;
    if (!BUG) __syncwarp();
    u32 r[4];
    MATRICES(r, s + OWN);  // BUG missing_syncwarp
    y[threadIdx.x] = r[0] ^ r[3];
}
PAIR(missing_syncwarp)

KERNEL overwritten_stage(float* x, float* y, u32 n) {
    SHARED(s, 512);
    float sum = 0.f;
    COPY(s + OWN, x + OWN);
    COMMIT;
    for (u32 k = 0; k < 4; ++k) {
        WAIT(0);
        __syncthreads();
        sum += s[k % 2 * 256 + OTHERS];  // BUG overwritten_stage
        if (!BUG) __syncthreads();
        COPY(s + (BUG ? k % 2 : (k + 1) % 2) * 256 + OWN, x + OWN);  // ALSO overwritten_stage
        COMMIT;
    }
    WAIT(0);
    y[threadIdx.x] = sum;
}
PAIR(overwritten_stage)

KERNEL ring_off_by_one(float* x, float* y, u32 n) {
    SHARED(s, 768);
    float sum = 0.f;
    for (u32 k = 0; k < 2; ++k) {
        COPY(s + k * 256 + OWN, x + OWN);
        COMMIT;
    }
    for (u32 k = 0; k < 5; ++k) {
        WAIT(1);
        __syncthreads();
        COPY(s + (k + (BUG ? 3 : 2)) % 3 * 256 + OWN, x + OWN);  // ALSO ring_off_by_one
        COMMIT;
        sum += s[k % 3 * 256 + OTHERS];  // BUG ring_off_by_one
    }
    WAIT(0);
    y[threadIdx.x] = sum;
}
PAIR(ring_off_by_one)

KERNEL missing_commit(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);
    if (!BUG) COMMIT;
    WAIT(0);
    __syncthreads();
    y[threadIdx.x] = s[OWN];  // BUG missing_commit
    WAIT_ALL;
}
PAIR(missing_commit)

KERNEL one_thread_waits(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);
    COMMIT;
    if (!BUG || threadIdx.x == 0) WAIT(0);
    __syncthreads();
    y[threadIdx.x] = s[OTHERS];  // BUG one_thread_waits
    WAIT(0);
}
PAIR(one_thread_waits)

KERNEL source_overwritten(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);
    COMMIT;
    if (!BUG) WAIT(0);
    x[OWN + 3] = 2.f;  // BUG source_overwritten
    WAIT(0);
    y[threadIdx.x] = s[OWN + 3];
}
PAIR(source_overwritten)

KERNEL source_of_others(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);  // ALSO source_of_others
    COMMIT;
    __syncthreads();
    if (!BUG) WAIT(0);
    if (!BUG) __syncthreads();
    x[OTHERS] = 2.f;  // BUG source_of_others
    WAIT(0);
    y[threadIdx.x] = s[OWN];
}
PAIR(source_of_others)

KERNEL source_of_another_block(float* x, float* y, u32 n) {
    SHARED(s, 128);
    if (blockIdx.x == 0) {
        COPY(s + OWN, x + OWN);  // ALSO source_of_another_block
        WAIT_ALL;
        y[threadIdx.x] = s[OWN];
    } else {
        x[(BUG ? 0 : 128) + OWN] = 2.f;  // BUG source_of_another_block
    }
}
PAIR(source_of_another_block)

KERNEL misaligned_source(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY_SOME(s + OWN, x + OWN + (BUG ? 1 : 0), 8);  // BUG misaligned_source
    WAIT_ALL;
    y[threadIdx.x] = s[OWN];
}
PAIR(misaligned_source)

KERNEL misaligned_target(float* x, float* y, u32 n) {
    SHARED(s, 260);
    COPY(s + OWN + (BUG ? 2 : 0), x + OWN);  // BUG misaligned_target
    WAIT_ALL;
    y[threadIdx.x] = s[OWN + 2];
}
PAIR(misaligned_target)

KERNEL misaligned_rows(float* x, float* y, u32 n) {
    SHARED(s, 130);
    for (u32 k = threadIdx.x; k < 130; k += 32) s[k] = x[k];
    __syncwarp();
    u32 r[4];
    MATRICES(r, s + OWN + (BUG ? 2 : 0));  // BUG misaligned_rows
    y[threadIdx.x] = r[1];
}
PAIR(misaligned_rows)

KERNEL rows_before_data(float* x, float* y, u32 n) {
    SHARED(s, 128);
    if (!BUG || threadIdx.x != 9) {
        COPY(s + OWN, x + OWN);
    }
    WAIT_ALL;
    __syncwarp();
    u32 r[4];
    MATRICES(r, s + OWN);  // BUG rows_before_data
    y[threadIdx.x] = r[1];
}
PAIR(rows_before_data)

KERNEL rows_outside(float* x, float* y, u32 n) {
    SHARED(s, 128);
    COPY(s + OWN, x + OWN);
    WAIT_ALL;
    __syncwarp();
    u32 r[4];
    MATRICES(r, s + (BUG ? threadIdx.x + 1 : threadIdx.x) * 4);  // BUG rows_outside
    y[threadIdx.x] = r[2];
}
PAIR(rows_outside)

KERNEL tail_size(float* x, float* y, u32 n) {
    SHARED(s, 128);
    u32 left = n > OWN ? (n - OWN) * 4 : 0;
    COPY_SOME(s + OWN, x + (left ? OWN : 0), BUG ? (left ? 16 : 0) : (left < 16 ? left : 16));  // BUG tail_size
    WAIT_ALL;
    y[threadIdx.x] = s[OWN] + s[OWN + 3];
}
PAIR(tail_size)

KERNEL too_many_bytes(float* x, float* y, u32 n) {
    SHARED(s, 128);
    COPY_SOME(s + OWN, x + OWN, BUG ? n - OWN * 4 : 16);  // BUG too_many_bytes
    WAIT_ALL;
    y[threadIdx.x] = s[OWN];
}
PAIR(too_many_bytes)

KERNEL twice_into_one_place(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);  // ALSO twice_into_one_place
    COMMIT;
    if (!BUG) WAIT(0);
    COPY(s + OWN, x + (63 * 4 - OWN));  // BUG twice_into_one_place
    COMMIT;
    WAIT(0);
    y[threadIdx.x] = s[OWN];
}
PAIR(twice_into_one_place)

KERNEL store_into_flight(float* x, float* y, u32 n) {
    SHARED(s, 256);
    COPY(s + OWN, x + OWN);
    COMMIT;
    if (!BUG) WAIT(0);
    s[OWN + 1] = 7.f;  // BUG store_into_flight
    WAIT(0);
    y[threadIdx.x] = s[OWN + 1];
}
PAIR(store_into_flight)

KERNEL exits_in_flight(float* x, float* y, u32 n) {
    SHARED(s, 512);
    COPY(s + OWN, x + OWN);
    COMMIT;
    COPY(s + 256 + OWN, x + OWN);  // BUG exits_in_flight
    COMMIT;
    WAIT(1);
    y[threadIdx.x] = s[OWN];
    if (!BUG) WAIT(0);
}
PAIR(exits_in_flight)

// The last stages are fetched although nobody needs them; what is left of the sums goes through their memory.
KERNEL epilogue_over_stages(float* x, float* y, u32 n) {
    SHARED(s, 512);
    float sum = 0.f;
    COPY(s + OWN, x + OWN);
    COMMIT;
    for (u32 k = 0; k < 3; ++k) {
        COPY(s + (k + 1) % 2 * 256 + OWN, x + OWN);  // ALSO epilogue_over_stages
        COMMIT;
        WAIT(1);
        __syncthreads();
        sum += s[k % 2 * 256 + OTHERS];
        __syncthreads();
    }
    if (!BUG) WAIT(0);
    if (!BUG) __syncthreads();
    s[256 + OTHERS] = sum;  // BUG epilogue_over_stages
    WAIT(0);
    __syncthreads();
    y[threadIdx.x] = s[256 + OWN];
}
PAIR(epilogue_over_stages)

KERNEL other_warps_rows(float* x, float* y, u32 n) {
    SHARED(s, 256);
    *(float4*)(s + OWN) = *(float4*)(x + OWN);
    __syncthreads();
    *(float4*)(s + OWN) = *(float4*)(x + 255 - 3 - OWN);  // ALSO other_warps_rows
    if (BUG) __syncwarp(); else __syncthreads();
    u32 r[4];
    MATRICES(r, s + OTHERS);  // BUG other_warps_rows
    y[threadIdx.x] = r[0];
}
PAIR(other_warps_rows)

KERNEL divergent_product(float* x, float* y, u32 n) {
    u32 a[4] = {1, 2, 3, threadIdx.x};
    float d[4] = {0.f, 0.f, 0.f, x[threadIdx.x]};
    if (BUG ? threadIdx.x < 16 : d[3] > 0.f)
        PRODUCT(d, a);  // BUG divergent_product
    y[threadIdx.x] = d[0];
}
PAIR(divergent_product)

KERNEL divergent_rows(float* x, float* y, u32 n) {
    SHARED(s, 128);
    u32 r[4] = {0, 0, 0, 0};
    *(float4*)(s + OWN) = *(float4*)(x + OWN);
    __syncwarp();
    if (BUG ? threadIdx.x % 3 == 0 : x[threadIdx.x] > 0.f)
        MATRICES(r, s + OWN);  // BUG divergent_rows
    y[threadIdx.x] = r[0];
}
PAIR(divergent_rows)

KERNEL partial_warp(float* x, float* y, u32 n) {
    u32 a[4] = {1, 2, 3, threadIdx.x};
    float d[4] = {0.f, 0.f, 0.f, x[threadIdx.x]};
    if (!BUG && threadIdx.x >= 32) return;
    PRODUCT(d, a);  // BUG partial_warp
    y[threadIdx.x] = d[0];
}
PAIR(partial_warp)

KERNEL lanes_have_exited(float* x, float* y, u32 n) {
    u32 t = threadIdx.x;
    if (BUG && threadIdx.x >= 30) return;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(t));  // BUG lanes_have_exited
    y[threadIdx.x] = t;
}
PAIR(lanes_have_exited)

// Of the next three one warp copies and the other one meets the copy, so that in the plain order each is on its own side
// of the copy's start and wait.
KERNEL read_after_anothers_wait(float* x, float* y, u32 n) {
    SHARED(s, 128);
    if (threadIdx.x < 32) {
        COPY(s + OWN, x + OWN);  // ALSO read_after_anothers_wait
        COMMIT;
    }
    if (BUG) __syncthreads();
    WAIT(0);
    if (!BUG) __syncthreads();
    if (threadIdx.x >= 32)
        y[threadIdx.x] = s[OTHERS];  // BUG read_after_anothers_wait
}
PAIR(read_after_anothers_wait)

KERNEL started_before_reads_end(float* x, float* y, u32 n) {
    SHARED(s, 128);
    if (threadIdx.x < 32) s[OWN] = 1.f;
    __syncthreads();
    if (threadIdx.x < 32)
        y[threadIdx.x] = s[OWN];  // ALSO started_before_reads_end
    if (!BUG) __syncthreads();
    if (threadIdx.x >= 32) {
        COPY(s + OTHERS, x + OWN);  // BUG started_before_reads_end
        COMMIT;
    }
    if (BUG) __syncthreads();
    WAIT(0);
}
PAIR(started_before_reads_end)

KERNEL source_given_up_early(float* x, float* y, u32 n) {
    SHARED(s, 128);
    if (threadIdx.x < 32) {
        COPY(s + OWN, x + OWN);  // ALSO source_given_up_early
        COMMIT;
    }
    if (BUG) __syncthreads();
    WAIT(0);
    if (!BUG) __syncthreads();
    if (threadIdx.x >= 32)
        x[OTHERS] = 2.f;  // BUG source_given_up_early
}
PAIR(source_given_up_early)
