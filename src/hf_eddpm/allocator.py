"""The memory of programs on CPUs: what the C library does with large blocks that are freed."""

import ctypes
import platform

# Names and numbers of malloc.h: what is freed stays with the process up to the first value, blocks up to the second
# come from the heap and are no mappings of their own, and the heap grows by the third.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _TOP_PAD = -1, -3, -2
_VALUES = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30, _TOP_PAD: 2**28}


def keep_freed_memory() -> bool:
    """Have glibc keep large blocks that are freed, for the next that are wanted.

    By default it gives them back to the system, which then clears every page anew. That takes up to two fifths of the
    time that images take on a CPU. The programs of this package call this when they start; yours may, too. It
    holds for the whole process, whose memory then stays at its highest.

    Returns:
        Whether the C library took all values; False where it is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(name, value) for name, value in _VALUES.items()])
