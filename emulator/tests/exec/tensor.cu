// A matrix product as Ampere's tensor cores want it: stages filled by cp.async, swizzled so that ldmatrix has no bank
// conflicts, mma.sync of bf16 into f32. What planted bugs do to it stands in pipelines.cu.
// tensor.sm_80.ptx beside this file is what NVRTC 12.9.86 makes of it, by tests/ptx/fixtures/compile.py run on a copy of
// both in one folder.
typedef unsigned int u32;
typedef unsigned short u16;

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
__device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ void load4(u32 (&r)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rows of 32 elements are 64 bytes: four pieces of 16, exchanged by every second row.
__device__ __forceinline__ u32 place(u32 row, u32 piece) { return row * 64 + ((piece ^ (row >> 1 & 3)) << 4); }

constexpr u32 TILE = 128, DEPTH = 32, STAGES = 3, STAGE_BYTES = 2 * TILE * DEPTH * 2;

__device__ __forceinline__ void fill(u32 stage, const u16* a, const u16* b, u32 k, u32 at) {
    for (u32 piece = threadIdx.x; piece < TILE * 4; piece += blockDim.x) {
        u32 row = piece / 4, column = piece % 4;
        copy16(stage + place(row, column), a + (size_t)row * k + at + column * 8);
        copy16(stage + TILE * 64 + place(row, column), b + (size_t)row * k + at + column * 8);
    }
}

// c = a b^T, all row by row; m and n multiples of 128, k of 32. 128 threads: four warps, 64x64 of the tile each.
extern "C" __global__ void __launch_bounds__(128) product(const u16* a, const u16* b, float* c, u32 n, u32 k) {
    extern __shared__ __align__(128) unsigned char stages[];
    u32 base = shared_address(stages), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 row0 = (warp & 1) * 64, column0 = (warp >> 1) * 64;
    a += (size_t)blockIdx.y * TILE * k;
    b += (size_t)blockIdx.x * TILE * k;
    float sums[4][8][4] = {};
    u32 steps = k / DEPTH;
    for (u32 s = 0; s < STAGES - 1; ++s) {
        if (s < steps) fill(base + s * STAGE_BYTES, a, b, k, s * DEPTH);
        commit();
    }
    for (u32 s = 0; s < steps; ++s) {
        wait<STAGES - 2>();
        __syncthreads();
        u32 next = s + STAGES - 1;
        if (next < steps) fill(base + next % STAGES * STAGE_BYTES, a, b, k, next * DEPTH);
        commit();
        u32 from = base + s % STAGES * STAGE_BYTES;
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            u32 fa[4][4], fb[4][4];
            for (u32 i = 0; i < 4; ++i)
                load4(fa[i], from + place(row0 + i * 16 + lane % 16, half * 2 + lane / 16));
            for (u32 i = 0; i < 4; ++i)
                load4(fb[i], from + TILE * 64 + place(column0 + i * 16 + lane % 8 + lane / 16 * 8,
                                                      half * 2 + (lane / 8 & 1)));
            for (u32 i = 0; i < 4; ++i)
                for (u32 j = 0; j < 8; ++j) multiply(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
    }
    wait<0>();
    for (u32 i = 0; i < 4; ++i)
        for (u32 j = 0; j < 8; ++j)
            for (u32 h = 0; h < 2; ++h) {
                size_t row = blockIdx.y * TILE + row0 + i * 16 + h * 8 + lane / 4;
                u32 column = blockIdx.x * TILE + column0 + j * 8 + lane % 4 * 2;
                *(float2*)(c + row * n + column) = make_float2(sums[i][j][2 * h], sums[i][j][2 * h + 1]);
            }
}
