"""Recipe of the fake driver library, compiled against NVIDIA's own header."""

import sys
from pathlib import Path
from typing import Final, TextIO

from testbed.build.recipe import need_packages, run
from testbed.paths import ROOT

SOURCE: Final = ROOT / "testbed" / "fakes" / "nvml" / "nvml.c"
SONAME: Final = "libnvidia-ml.so.1"
_HEADER: Final = "nvidia-nvml-dev==13.5.37"


def fake_nvml(target: Path, log: TextIO) -> None:
    """``lib/libnvidia-ml.so.1``."""
    need_packages({"gcc": "gcc", "libc6-dev": Path("/usr/include/stdio.h")}, log=log)
    headers = target / "headers"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        headers,
        _HEADER,
    ]
    run(pip, log=log, env={"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    include = next(headers.rglob("nvml.h")).parent
    (target / "lib").mkdir()
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread", f"-Wl,-soname,{SONAME}"]
    run(["gcc", *flags, f"-I{include}", "-o", target / "lib" / SONAME, SOURCE], log=log)
