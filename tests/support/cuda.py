"""``python -m tests.support.cuda MIB``: a process that holds so much of the first GPU, until its input ends.

By the driver's own library, without a toolkit: what the driver counts for it is its context and the one allocation.
"""

import ctypes
import sys

_CHUNK = 2**20


def main() -> None:
    """Prints ``ready`` when the memory is taken."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    _check(driver.cuInit(0))
    _check(driver.cuDeviceGet(ctypes.byref(device), 0))
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _check(driver.cuCtxSetCurrent(context))
    size = int(sys.argv[1]) * _CHUNK
    if size:
        _check(driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


def _check(code: int) -> None:
    if code:
        raise SystemExit(f"the driver says {code}")


if __name__ == "__main__":
    main()
