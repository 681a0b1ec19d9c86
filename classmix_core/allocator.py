"""Memory of the process on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is allocated next, in place of giving it back to the system.

    Every page that comes anew from the system costs a fault, which takes as long as filling it: a step on images of
    512 x 1024 takes some 9% longer so (benchmarks/step.py --plain-memory). Elsewhere than with glibc nothing happens.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, LARGEST)
