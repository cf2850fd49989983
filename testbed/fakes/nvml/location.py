"""Where the compiled library is, and how a process comes to use it."""

from collections.abc import Mapping
from pathlib import Path

from testbed.build import ensure
from testbed.build.fake_nvml import SONAME


def library() -> Path:
    """The library, compiled if it is not there. Raises BuildFailed."""
    return ensure("fake-nvml") / "lib" / SONAME


def environment(state: Path) -> Mapping[str, str]:
    """The variables with which a new process finds the library, and the file ``state`` behind it."""
    return {"LD_LIBRARY_PATH": str(library().parent), "FAKE_NVML_STATE": str(state)}
