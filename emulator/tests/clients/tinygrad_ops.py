"""tinygrad on its CUDA device: it compiles with NVRTC to PTX, calls the driver by ctypes, and replays its JIT by graphs."""

import numpy as np
from tinygrad import Device, Tensor, TinyJit


def values(tensor):
    return tensor._buffer().numpy().copy()  # without tinygrad's CPU device, which needs clang


assert Device.DEFAULT == "CUDA"
n = np.arange(64, dtype=np.float32).reshape(8, 8)
a = Tensor(n).realize()
assert np.allclose(values((a @ a.T + 1).relu().sum(axis=1)), np.maximum(n @ n.T + 1, 0).sum(1))

e = np.exp((n - n.max(1, keepdims=True)) / 8)
softmax = values(((a - 30) / 8).softmax(axis=1)).reshape(8, 8)
assert np.allclose(softmax, e / e.sum(1, keepdims=True), atol=1e-5)


@TinyJit
def step(x):
    return ((x * 2 + 1).contiguous().realize() @ x).realize()


for i in range(6):
    x = Tensor(np.full((16, 16), i, np.float32)).realize()
    assert (values(step(x)) == (i * 2 + 1) * i * 16).all()

image = np.arange(3 * 16 * 16, dtype=np.float32).reshape(3, 16, 16)
ones = Tensor(np.ones((4, 3, 3, 3), np.float32)).realize()
convolved = values(Tensor(image[None]).realize().conv2d(ones)).reshape(4, 14, 14)
expected = sum(image[c, i : i + 14, j : j + 14] for c in range(3) for i in range(3) for j in range(3))
assert all(np.allclose(channel, expected) for channel in convolved)
print("ok")
