"""Debian packages that the test bed uses, installed when their program is missing."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from testbed.say import step

NODES: Final[Mapping[str, str | Path]] = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": Path("/usr/lib/cni/bridge"),
    "iptables": "iptables",
    "iproute2": "ip",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
}
"""What real nodes run, by the program or file that shows that a package is there."""
POLICIES: Final[Mapping[str, str | Path]] = {"ipset": "ipset"}
"""What the enforcement of network policies runs."""
IMAGES: Final[Mapping[str, str | Path]] = {
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "gcc": "gcc",
    "libc6-dev": Path("/usr/include/stdio.h"),
}
"""What makes images."""

_LOCK_SECONDS: Final = 300


class NotInstalled(Exception):
    """apt-get failed; the message is the end of what it said."""


def need(packages: Mapping[str, str | Path]) -> None:
    """Install the packages whose program or file is missing. Raises NotInstalled."""
    missing = [package for package, sign in packages.items() if not _there(sign)]
    if not missing:
        return
    with step(f"installing {', '.join(missing)}"):
        _apt("update", "-q")
        _apt("install", "-q", "-y", "--no-install-recommends", *missing)


def _there(sign: str | Path) -> bool:
    return sign.exists() if isinstance(sign, Path) else shutil.which(sign) is not None


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotInstalled(f"apt-get {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
