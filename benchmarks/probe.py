"""How fast this machine reads memory right now: the ceiling of decoding, and a check that two runs met the same machine.

    python -m benchmarks.probe [--threads N] [--seconds S]

The C library's memcmp of two equal halves reads two streams a core and does nothing else: here within a tenth of the
best loop with prefetches in C, and 1.4 times what one stream (memchr) gets. The buffer is anonymous, in huge pages
where the system allows them, and far larger than what the caches keep of it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.machine import cores

BUFFER_BYTES = 1 << 30
PASSES = 5  # of 15 to 50 ms each; the best is the ceiling, a slower one shared the machine with another's work


class BandwidthProbe:
    """Owns a buffer and the threads that read it: make one, measure often, close."""

    def __init__(self, threads: int, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.threads = threads
        self._share = buffer_bytes // threads
        self._buffer = mmap.mmap(-1, self._share * threads)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._buffer.madvise(mmap.MADV_HUGEPAGE)
        self._anchor = ctypes.c_char.from_buffer(self._buffer)
        libc = ctypes.CDLL(None)  # its calls release the GIL
        libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._memcmp = libc.memcmp
        self._pool = ThreadPoolExecutor(threads)
        self._on_each_share(lambda address: libc.memset(address, 1, self._share))

    def _on_each_share(self, work: Callable[[int], object]) -> None:
        start = ctypes.addressof(self._anchor)
        list(self._pool.map(work, range(start, start + self._share * self.threads, self._share)))

    def measure(self) -> float:
        """GB/s (1e9 bytes a second) that all threads read together: the best of a few passes over the buffer."""

        half = self._share // 2

        def one_pass() -> float:
            start = time.perf_counter()
            self._on_each_share(lambda address: self._memcmp(address, address + half, half))
            return time.perf_counter() - start

        return self._share * self.threads / min(one_pass() for _ in range(PASSES)) / 1e9

    def close(self) -> None:
        self._pool.shutdown()
        del self._anchor  # the buffer cannot be unmapped while it is pointed at
        self._buffer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the speed of reading memory, GB/s; JSON on the last line.")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to look; a shared machine drifts")
    args = parser.parse_args()
    probe = BandwidthProbe(args.threads)
    samples: list[float] = []
    end = time.monotonic() + args.seconds
    while not samples or time.monotonic() < end:
        samples.append(probe.measure())
    probe.close()
    median = statistics.median(samples)
    print(f"{args.threads} threads read {median:.1f} GB/s ({min(samples):.1f} to {max(samples):.1f})")
    print(json.dumps({"threads": args.threads, "gb_per_s": median, "low": min(samples), "high": max(samples)}))


if __name__ == "__main__":
    main()
