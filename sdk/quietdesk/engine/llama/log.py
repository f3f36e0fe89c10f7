"""Log: what llama.cpp tells, kept instead of printed."""

import ctypes
import threading
from collections import deque
from typing import Any, ClassVar

import llama_cpp


class Log:
    """The last lines of llama.cpp's log, which explain a failure."""

    lines: ClassVar[deque[str]] = deque(maxlen=40)
    _callback: ClassVar[Any] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def capture(cls) -> None:
        """Have llama.cpp log here; process-wide, before its first call, and kept alive."""
        with cls._lock:
            if cls._callback is None:
                cls._callback = llama_cpp.llama_log_callback(cls._add)
                llama_cpp.llama_log_set(cls._callback, ctypes.c_void_p(0))

    @classmethod
    def _add(cls, level: int, text: bytes, _data: object) -> None:
        if level >= 3:  # GGML_LOG_LEVEL_WARN; lower ones are information and debugging
            cls.lines.append(text.decode("utf-8", "replace").rstrip())

    @classmethod
    def reason(cls) -> str:
        """The last error in one line."""
        told = [line for line in cls.lines if line and "failed to load model" not in line]
        return told[-1] if told else "llama.cpp gave no reason"
