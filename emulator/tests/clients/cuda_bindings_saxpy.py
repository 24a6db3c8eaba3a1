"""NVIDIA's cuda-bindings: compile a kernel with NVRTC, load its PTX, launch it on streams and by a graph, check values."""

import ctypes

import numpy as np
from cuda.bindings import driver, nvrtc


def check(result):
    error, *values = result
    if int(error) != 0:
        raise RuntimeError(f"{error}")
    return values[0] if len(values) == 1 else values


SOURCE = rb"""
extern "C" __global__ void saxpy(float a, const float *x, const float *y, float *out, size_t n) {
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i < n) out[i] = a * x[i] + y[i];
}
"""

check(driver.cuInit(0))
device = check(driver.cuDeviceGet(0))
name = check(driver.cuDeviceGetName(64, device)).split(b"\0")[0].decode()
major = check(driver.cuDeviceGetAttribute(driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device))
minor = check(driver.cuDeviceGetAttribute(driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device))
print(name, f"compute capability {major}.{minor}", "driver", check(driver.cuDriverGetVersion()))
context = check(driver.cuDevicePrimaryCtxRetain(device))
check(driver.cuCtxSetCurrent(context))

program = check(nvrtc.nvrtcCreateProgram(SOURCE, b"saxpy.cu", 0, [], []))
check(nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture=compute_{major}{minor}".encode()]))
ptx = b" " * check(nvrtc.nvrtcGetPTXSize(program))
check(nvrtc.nvrtcGetPTX(program, ptx))
module = check(driver.cuModuleLoadData(np.char.array(ptx).ctypes.data))
kernel = check(driver.cuModuleGetFunction(module, b"saxpy"))

n = 100_003
rng = np.random.default_rng(1)
x, y = rng.standard_normal(n, dtype=np.float32), rng.standard_normal(n, dtype=np.float32)
out = np.zeros_like(x)
buffers = [check(driver.cuMemAlloc(x.nbytes)) for _ in range(3)]
stream = check(driver.cuStreamCreate(0))
check(driver.cuMemcpyHtoDAsync(buffers[0], x.ctypes.data, x.nbytes, stream))
check(driver.cuMemcpyHtoDAsync(buffers[1], y.ctypes.data, y.nbytes, stream))


def launch(a):
    values = (a, *buffers, n)
    types = (ctypes.c_float, None, None, None, ctypes.c_size_t)
    check(driver.cuLaunchKernel(kernel, (n + 255) // 256, 1, 1, 256, 1, 1, 0, stream, (values, types), 0))


launch(2.5)
check(driver.cuMemcpyDtoHAsync(out.ctypes.data, buffers[2], out.nbytes, stream))
check(driver.cuStreamSynchronize(stream))
expected = [np.float32(2.5) * x + y, np.float64(2.5) * x + y]  # rounded twice, or fused
assert np.abs(out - expected[1]).max() <= np.abs(expected[0] - expected[1]).max() + 1e-7

# The same by capture and replay: the graph doubles as often as it is launched.
check(driver.cuMemcpyDtoDAsync(buffers[0], buffers[2], x.nbytes, stream))
check(driver.cuMemsetD32Async(buffers[1], 0, n, stream))
check(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
launch(2.0)
check(driver.cuMemcpyDtoDAsync(buffers[0], buffers[2], x.nbytes, stream))
graph = check(driver.cuStreamEndCapture(stream))
executable = check(driver.cuGraphInstantiate(graph, 0))
for _ in range(3):
    check(driver.cuGraphLaunch(executable, stream))
eight = np.zeros_like(x)
check(driver.cuStreamSynchronize(stream))
check(driver.cuMemcpyDtoH(eight.ctypes.data, buffers[0], eight.nbytes))
assert (eight == out * 8).all()

check(driver.cuGraphExecDestroy(executable))
check(driver.cuGraphDestroy(graph))
check(driver.cuStreamDestroy(stream))
for buffer in buffers:
    check(driver.cuMemFree(buffer))
check(driver.cuModuleUnload(module))
check(driver.cuDevicePrimaryCtxRelease(device))
print("ok")
