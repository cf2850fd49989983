"""Sets of addresses in the kernel that rules of network policies look into."""

import shutil
import subprocess
from typing import Final

_PREFIXES: Final = ("KUBE-SRC-", "KUBE-DST-", "TMP-")
"""The last are in the middle of being filled: what a killed program leaves."""


def existing() -> set[str]:
    """The names of all sets of the machine; none where the program that makes them is not installed."""
    return set(_ipset("list", "-name").split()) if shutil.which("ipset") else set()


def remove() -> None:
    """Remove those of network policies; no rule may look into them any more."""
    for name in sorted(existing()):
        if name.startswith(_PREFIXES):
            _ipset("destroy", name)


def _ipset(*arguments: str) -> str:
    done = subprocess.run(["ipset", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ipset {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout
