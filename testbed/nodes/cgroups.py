"""A cgroup per node in every hierarchy (version 1 has one per controller), and its end with all that runs in it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/mounts")
_ONLY_V2: Final = Path("/sys/fs/cgroup")
"""Where version 2 is mounted when it carries the controllers; beside version 1 it has another place."""
_END_SECONDS: Final = 10
_V2_CONTROLLERS: Final = "+cpu +cpuset +memory +pids"


def make(name: str) -> None:
    """Make the cgroup ``name`` at the root of every hierarchy, as the kubelet's ``cgroupRoot`` demands."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
        if hierarchy == _ONLY_V2:
            (hierarchy / "cgroup.subtree_control").write_text(_V2_CONTROLLERS)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # In version 1 a new cpuset is empty and takes no process until it is filled.
            source, target = hierarchy / setting, hierarchy / name / setting
            if source.exists():
                target.write_text(source.read_text())


def kill(name: str) -> None:
    """Kill every process below the cgroup and wait until none is left."""
    deadline = time.monotonic() + _END_SECONDS
    while found := set(_processes(name)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(found)} of cgroup {name} do not end")
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove(name: str) -> None:
    """Kill what runs in the cgroup and remove it from every hierarchy."""
    kill(name)
    for hierarchy in _hierarchies():
        top = hierarchy / name
        if top.is_dir():
            for directory in (*sorted(_directories(top), reverse=True), top):
                _remove_directory(directory)


def existing() -> set[str]:
    """The cgroups right below every root, as paths: what a machine makes deeper down comes and goes by itself."""
    return {str(path) for hierarchy in _hierarchies() for path in hierarchy.iterdir() if path.is_dir()}


def _hierarchies() -> list[Path]:
    lines = (line.split() for line in _MOUNTS.read_text().splitlines())
    return [Path(fields[1]) for fields in lines if fields[2] in {"cgroup", "cgroup2"}]


def _directories(top: Path) -> list[Path]:
    return [Path(root, name) for root, names, _ in os.walk(top) for name in names]


def _processes(name: str) -> Iterator[int]:
    for hierarchy in _hierarchies():
        for root, _, _ in os.walk(hierarchy / name):
            try:
                yield from map(int, Path(root, "cgroup.procs").read_text().split())
            except OSError:
                continue


def _remove_directory(directory: Path) -> None:
    """The kernel lets a cgroup go a moment after its last process."""
    deadline = time.monotonic() + _END_SECONDS
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
