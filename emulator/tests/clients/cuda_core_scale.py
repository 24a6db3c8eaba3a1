"""NVIDIA's cuda-core: a program compiled to PTX, launched between copies from and to pinned memory, events, a graph."""

import numpy as np
from cuda.core import Device, EventOptions, LaunchConfig, LegacyPinnedMemoryResource, Program, ProgramOptions, launch

SOURCE = r"""
extern "C" __global__ void scale(float *x, float a, size_t n) {
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i < n) x[i] *= a;
}
"""

device = Device()
device.set_current()
stream = device.create_stream()
major, minor = device.compute_capability
print(device.name, f"compute capability {major}.{minor}")
program = Program(SOURCE, "c++", ProgramOptions(std="c++17", arch=f"compute_{device.arch}"))
kernel = program.compile("ptx").get_kernel("scale")

n = 1003
x = device.allocate(4 * n, stream=stream)
pinned = LegacyPinnedMemoryResource().allocate(4 * n)
host = np.from_dlpack(pinned).view(np.float32)
host[:] = np.arange(n)
expected = host.copy()
config = LaunchConfig(grid=(n + 255) // 256, block=256)

x.copy_from(pinned, stream=stream)
start = stream.record(options=EventOptions(timing_enabled=True))
launch(stream, config, kernel, x, np.float32(3), np.uint64(n))
end = stream.record(options=EventOptions(timing_enabled=True))
x.copy_to(pinned, stream=stream)
stream.sync()
assert end.is_done and end - start >= 0
assert (host == 3 * expected).all()

# Two streams, ordered by an event.
other = device.create_stream()
done = stream.record()
other.wait(done)
launch(other, config, kernel, x, np.float32(0.5), np.uint64(n))
stream.wait(other)
x.copy_to(pinned, stream=stream)
stream.sync()
assert (host == 1.5 * expected).all()

builder = device.create_graph_builder()
builder.begin_building()
launch(builder, config, kernel, x, np.float32(2), np.uint64(n))
launch(builder, config, kernel, x, np.float32(2), np.uint64(n))
graph = builder.end_building().complete()
graph.upload(stream)
graph.launch(stream)
graph.launch(stream)
x.copy_to(pinned, stream=stream)
stream.sync()
assert (host == 24 * expected).all()

graph.close()
builder.close()
x.close(stream)
pinned.close()
stream.close()
print("ok")
