"""GPUs: those that llama.cpp can use on this machine, and how much memory each has."""

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp

from quietdesk.engine.llama.log import Log
from quietdesk.engine.offload import Gpu
from quietdesk.errors import ModelFileError

_GPU, _INTEGRATED = 1, 2
"""ggml_backend_dev_type: with memory of its own, and with the processor's."""


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that llama.cpp would use, in its order: integrated ones only without others."""
    Log.capture()
    if not llama_cpp.llama_supports_gpu_offload():
        return ()
    count = _ggml("ggml_backend_dev_count", ctypes.c_size_t)
    get = _ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    found = [_gpu(device) for device in (get(n) for n in range(count())) if _is_gpu(device)]
    return tuple(gpu for gpu in found if not gpu.shares_memory) or tuple(found)


def _is_gpu(device: int) -> bool:
    kind = _ggml("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    return kind(device) in (_GPU, _INTEGRATED)


def _gpu(device: int) -> Gpu:
    kind = _ggml("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(device)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size = ctypes.POINTER(ctypes.c_size_t)
    _ggml("ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)(
        device, ctypes.byref(free), ctypes.byref(total)
    )
    name, description = (
        _ggml(f"ggml_backend_dev_{what}", ctypes.c_char_p, ctypes.c_void_p)(device)
        for what in ("name", "description")
    )
    return Gpu(
        name.decode("utf-8", "replace"),
        description.decode("utf-8", "replace"),
        free.value,
        total.value,
        # One that tells no memory at all uses the processor's, as llama.cpp takes it.
        shares_memory=kind == _INTEGRATED or not total.value,
    )


def _ggml(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the libraries that llama_cpp loads and does not name itself."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    libraries = [llama_cpp.llama_cpp._lib]
    # On Windows a library does not give out the functions of those that it needs.
    libraries += [ctypes.CDLL(str(file)) for file in sorted(folder.glob("ggml*.dll"))]
    for library in libraries:
        if hasattr(library, name):
            # A new object for each signature, so that nobody else's is changed.
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            return ctypes.CFUNCTYPE(result, *arguments)(address or 0)
    raise ModelFileError(str(folder), f"this llama.cpp has no function {name!r}")
