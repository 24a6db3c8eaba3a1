/* A program in C that knows the driver API from no header: it opens libcuda.so.1, finds each function by its name, and
   runs a kernel from PTX text. Prints "ok"; whatever goes wrong is told and ends it. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const char *PTX =
    ".version 6.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry square(.param .u64 to, .param .u64 from, .param .u32 n)\n"
    "{\n"
    "  .reg .pred %p;\n  .reg .b32 %r<6>;\n  .reg .b64 %d<6>;\n"
    "  ld.param.u64 %d1, [to];\n  ld.param.u64 %d2, [from];\n  ld.param.u32 %r1, [n];\n"
    "  mov.u32 %r2, %ctaid.x;\n  mov.u32 %r3, %ntid.x;\n  mov.u32 %r4, %tid.x;\n"
    "  mad.lo.u32 %r2, %r2, %r3, %r4;\n  setp.ge.u32 %p, %r2, %r1;\n  @%p ret;\n"
    "  mul.wide.u32 %d3, %r2, 4;\n  add.u64 %d4, %d2, %d3;\n  add.u64 %d5, %d1, %d3;\n"
    "  ld.global.u32 %r5, [%d4];\n  mul.lo.u32 %r5, %r5, %r5;\n  st.global.u32 [%d5], %r5;\n"
    "  ret;\n"
    "}\n";

static void *library;

static void *function(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "no %s\n", name);
        exit(2);
    }
    return found;
}

static void check(const char *what, int code) {
    if (code) {
        const char *text = "?";
        ((int (*)(int, const char **))function("cuGetErrorName"))(code, &text);
        fprintf(stderr, "%s: %d %s\n", what, code, text);
        exit(3);
    }
}

#define CALL(name, types, ...) check(#name, ((int(*) types)function(#name))(__VA_ARGS__))

int main(void) {
    enum { N = 1000 };
    static unsigned in[N], out[N];
    unsigned long long from, to;
    void *context, *module, *kernel, *stream;
    int device, count;
    unsigned n = N;
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    CALL(cuInit, (unsigned), 0);
    CALL(cuDeviceGetCount, (int *), &count);
    CALL(cuDeviceGet, (int *, int), &device, count - 1);
    CALL(cuCtxCreate_v2, (void **, unsigned, int), &context, 0, device);
    CALL(cuModuleLoadData, (void **, const void *), &module, PTX);
    CALL(cuModuleGetFunction, (void **, void *, const char *), &kernel, module, "square");
    CALL(cuMemAlloc_v2, (unsigned long long *, size_t), &from, sizeof in);
    CALL(cuMemAlloc_v2, (unsigned long long *, size_t), &to, sizeof out);
    CALL(cuStreamCreate, (void **, unsigned), &stream, 1);
    for (unsigned i = 0; i < N; i++) in[i] = i;
    CALL(cuMemcpyHtoDAsync_v2, (unsigned long long, const void *, size_t, void *), from, in, sizeof in, stream);
    void *arguments[] = {&to, &from, &n};
    CALL(cuLaunchKernel,
         (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **),
         kernel, 8, 1, 1, 128, 1, 1, 0, stream, arguments, NULL);
    CALL(cuMemcpyDtoHAsync_v2, (void *, unsigned long long, size_t, void *), out, to, sizeof out, stream);
    CALL(cuStreamSynchronize, (void *), stream);
    for (unsigned i = 0; i < N; i++)
        if (out[i] != i * i) {
            fprintf(stderr, "%u squared is not %u\n", i, out[i]);
            return 4;
        }
    CALL(cuMemFree_v2, (unsigned long long), from);
    CALL(cuMemFree_v2, (unsigned long long), to);
    CALL(cuStreamDestroy_v2, (void *), stream);
    CALL(cuModuleUnload, (void *), module);
    CALL(cuCtxDestroy_v2, (void *), context);
    puts("ok");
    return 0;
}
