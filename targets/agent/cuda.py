"""The few calls of the CUDA driver that running a TensorRT engine takes, through ctypes: boards have no other Python binding.

libcuda.so.1 comes with every driver, and these entry points have been the same since CUDA 4 (CUDA Driver API, docs.nvidia.com/cuda/
cuda-driver-api). The device's primary context is used, the one that TensorRT itself uses. Device 0 only.
"""

import ctypes
from typing import Any, List, Tuple

from edgec.targets.agent.wire import Failure

LIBRARY = "libcuda.so.1"
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class Cuda:
    """Device 0, its primary context and one stream.

    Raises:
        Failure: ToolchainMissing without a driver or a device; TargetError when a call fails.
    """

    def __init__(self) -> None:
        try:
            self._lib: Any = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise Failure("ToolchainMissing", "there is no NVIDIA driver here: %s" % error) from error
        self._blocks: List[Any] = []
        self._call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self.stream = ctypes.c_void_p()
        self._has_context = False

    def name(self) -> str:
        """As the driver calls the GPU."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, ctypes.c_int(256), self._device)
        return text.value.decode("utf-8", "replace")

    def capability(self) -> Tuple[int, int]:
        """Compute capability (major, minor)."""
        parts = []
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device)
            parts.append(value.value)
        return parts[0], parts[1]

    def version(self) -> str:
        """The newest CUDA that the driver serves: 12.4."""
        value = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(value))
        return "%d.%d" % (value.value // 1000, value.value % 1000 // 10)

    def open(self) -> None:
        """Make the primary context current and a stream in it."""
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._has_context = True
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(0))

    def allocate(self, size: int) -> int:
        """Address of device memory that `close` frees."""
        block = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(max(size, 1)))
        self._blocks.append(block)
        return int(block.value)

    def to_device(self, device: int, host: int, size: int) -> None:
        """Queue a copy of `size` bytes on the stream."""
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(device), ctypes.c_void_p(host), ctypes.c_size_t(size), self.stream)

    def to_host(self, host: int, device: int, size: int) -> None:
        """Queue a copy of `size` bytes on the stream."""
        self._call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(host), ctypes.c_uint64(device), ctypes.c_size_t(size), self.stream)

    def wait(self) -> None:
        """Return when the stream has done everything."""
        self._call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Free everything; may be called twice."""
        while self._blocks:
            self._call("cuMemFree_v2", self._blocks.pop())
        if self.stream:
            self._call("cuStreamDestroy_v2", self.stream)
            self.stream = ctypes.c_void_p()
        if self._has_context:
            self._has_context = False
            self._call("cuDevicePrimaryCtxRelease", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._lib, name)(*arguments))
        if status == 0:
            return
        text = ctypes.c_char_p()
        self._lib.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
        what = "CUDA's %s failed: %s" % (name, (text.value or b"%d" % status).decode("ascii", "replace"))
        raise Failure("ToolchainMissing" if name in ("cuInit", "cuDeviceGet") else "TargetError", what, status=status)
