// One tiny function for each PTX instruction that CUDA C++ does not have under NVRTC without headers. The only file with
// inline assembly.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// 16 bytes that are read once: past the first-level cache, and through the path for data that nobody writes meanwhile.
__device__ __forceinline__ uint4 ld_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// 16 bytes that this kernel also writes.
__device__ __forceinline__ uint4 ld_16(const void *p) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

// 8 bytes. As an instruction it stays before what is computed from the loads before it, which the compiler else moves up to
// hold fewer registers.
__device__ __forceinline__ u64 ld_8(const void *p) {
    u64 v;
    asm volatile("ld.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ void st_16(void *p, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

// The compiler stores a structure of two words one after the other, and each store touches every sector.
__device__ __forceinline__ void st_8(void *p, u32 first, u32 second) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(first), "r"(second) : "memory");
}

// Round to nearest even; the low half of the result is `low`.
__device__ __forceinline__ u32 bf16x2(float low, float high) {
    u32 v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}

__device__ __forceinline__ u32 f16x2(float low, float high) {
    u32 v;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}

__device__ __forceinline__ float from_f16(u16 bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}

// --- tensor cores ---------------------------------------------------------------------------------------------------

// Shared memory as the instructions below address it.
__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// Four times 16 bytes, APART from each other on both sides, from global to shared memory where `wanted`; past the first-level
// cache. They are there once their group has been waited for. By a predicate, since the compiler moves nothing around a branch,
// and with offsets in the instructions, since it does not move additions there.
template <u32 APART>
__device__ __forceinline__ void copy_async_4_if(bool wanted, u32 to, const void *from) {
    asm volatile(
        "{\n.reg .pred wanted;\nsetp.ne.u32 wanted, %2, 0;\n"
        "@wanted cp.async.cg.shared.global [%0], [%1], 16;\n"
        "@wanted cp.async.cg.shared.global [%0 + %3], [%1 + %3], 16;\n"
        "@wanted cp.async.cg.shared.global [%0 + %4], [%1 + %4], 16;\n"
        "@wanted cp.async.cg.shared.global [%0 + %5], [%1 + %5], 16;\n}" ::"r"(to),
        "l"(from), "r"((u32)wanted), "n"(APART), "n"(2 * APART), "n"(3 * APART)
        : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups of copies, but for the last N.
template <u32 N>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements, their rows OFFSET behind the addresses of 8 lanes each; lane l has elements 2 (l % 4)
// and 2 (l % 4) + 1 of row l / 4 of each.
template <u32 OFFSET>
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at), "n"(OFFSET)
                 : "memory");
}

// The transposes of such matrices.
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// d += a b: 16 x 16 times 16 x 8, summed in f32.
template <bool HALF>
__device__ __forceinline__ void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if (HALF)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// What other blocks wrote before they released the counter that this reads.
__device__ __forceinline__ u32 load_acquire(const u32 *p) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// Adds one, behind everything that this thread wrote and saw written; the value before. What others wrote before they did so is
// seen afterwards.
__device__ __forceinline__ u32 arrive(u32 *p) {
    u32 v;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// The lane, computed here and nowhere earlier: what follows from it is not kept in registers from before.
__device__ __forceinline__ u32 lane_now() {
    u32 v;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(v));
    return v;
}

// No instruction: what is in memory is read after it, not kept in registers from before.
__device__ __forceinline__ void read_afresh() { asm volatile("" ::: "memory"); }

// A NaN of a 16-bit type keeps its sign and upper bits on the CPU; the conversions above give one NaN for all. Parity is
// to the bit for everything but NaN payloads.
__device__ __forceinline__ float from_bf16(u16 bits) { return __uint_as_float((u32)bits << 16); }
