"""Mounts below a directory, and the removal of a tree that must hold none."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_DETACH: Final = 2


def below(root: Path) -> list[Path]:
    """Mount points at or below ``root``, the latest first."""
    fields = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    points = [Path(parts[4].replace("\\040", " ")) for parts in fields]
    return [point for point in reversed(points) if point.is_relative_to(root)]


def unmount(root: Path) -> None:
    """Unmount everything at or below ``root``."""
    library = ctypes.CDLL(None, use_errno=True)
    for point in below(root):
        if library.umount2(os.fsencode(point), _DETACH):
            raise OSError(ctypes.get_errno(), "cannot unmount", str(point))


def share(root: Path) -> None:
    """Make a directory a mount that namespaces made from now on share: what any of them mounts below it, all have."""
    if root not in below(root):
        subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
    subprocess.run(["mount", "--make-shared", str(root)], check=True)


def in_memory(root: Path) -> None:
    """Make a directory whose files are in memory; one that is there stays as it is."""
    if not root.exists():
        root.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root)], check=True)


def remove_tree(root: Path) -> None:
    """Unmount and delete: a mount that stayed would have its content deleted with the tree."""
    unmount(root)
    if left := below(root):
        raise RuntimeError(f"still mounted: {left}")
    shutil.rmtree(root, ignore_errors=True)
