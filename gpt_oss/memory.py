"""How much memory this machine has, on each system in its own way."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def memory_bytes() -> tuple[int, int]:
    """(total, available) bytes of RAM. Available is what programs could still get, page cache that can be dropped
    included, as the system itself estimates it; half of the total where it does not say."""
    if sys.platform == "win32":
        return _windows()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return total, int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return total, total // 2


def _windows() -> tuple[int, int]:
    """GlobalMemoryStatusEx's ullTotalPhys and ullAvailPhys."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load_percent", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "available", "page_total", "page_available")),
            *((name, ctypes.c_uint64) for name in ("virtual_total", "virtual_available", "extended")),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        raise OSError("Windows does not say how much memory there is")
    return status.total, status.available
