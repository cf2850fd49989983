"""What nodes change on the host, and how it is undone: interfaces, cgroups, mounts, sysctls, leftover processes."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from testbed.journal import Journal, Undo

_CGROUPS: Final = Path("/sys/fs/cgroup")
_TRIES: Final = 50


def add_interface(journal: Journal, name: str, address: str) -> None:
    """A dummy interface with an address that host and pods reach, whatever networks the machine has."""
    if Path(f"/sys/class/net/{name}").exists():
        return
    journal.record("interface", name)
    _ip("link", "add", name, "type", "dummy")
    _ip("address", "add", f"{address}/32", "dev", name)
    _ip("link", "set", name, "up")


def set_sysctl(journal: Journal, name: str, value: str) -> None:
    """Set a kernel parameter; the journal keeps the old value."""
    path = _sysctl(name)
    before = path.read_text().strip()
    if before != value:
        journal.record("sysctl", f"{name}={before}")
        path.write_text(value)


def add_cgroup(journal: Journal, name: str) -> None:
    """A cgroup for all pods of a node, in every version 1 hierarchy, so that two kubelets never share one."""
    journal.record("cgroup", name)
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (group / setting).exists():
                (group / setting).write_text((hierarchy / setting).read_text())


def undo() -> dict[str, Undo]:
    """How each kind of the journal is undone. The order of the journal puts processes before mounts."""
    return {
        "interface": lambda name: _ip("link", "delete", name, check=False),
        "sysctl": _restore_sysctl,
        "cgroup": _remove_cgroup,
        "mounts": remove_mounts,
        "processes": kill_below,
        "kube-proxy": _clean_proxy,
        "directory": lambda path: shutil.rmtree(path, ignore_errors=True),
    }


def kill_below(directory: str) -> None:
    """Kill processes that were started with a path below a directory: containerd's shims and what they run.

    The shims belong to containerd, not to us; their command line names containerd's socket, which is ours.
    """
    for _ in range(_TRIES):
        found = [pid for pid in _processes() if _concerns(pid, directory)]
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def remove_mounts(directory: str) -> None:
    """Unmount everything at or below a directory, the deepest first."""
    for _ in range(_TRIES):
        points = [point for point in mounts() if point == directory or point.startswith(f"{directory}/")]
        if not points:
            return
        for point in sorted(points, key=len, reverse=True):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def mounts() -> list[str]:
    """Mount points of this machine."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1].encode().decode("unicode_escape") for line in lines]


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def _restore_sysctl(setting: str) -> None:
    name, _, value = setting.partition("=")
    _sysctl(name).write_text(value)


def _hierarchies() -> list[Path]:
    return [path for path in _CGROUPS.iterdir() if (path / "tasks").exists() and not path.is_symlink()]


def _remove_cgroup(name: str) -> None:
    for hierarchy in _hierarchies():
        for _ in range(_TRIES):
            if not _remove_tree(hierarchy / name):
                break
            time.sleep(0.1)


def _remove_tree(group: Path) -> bool:
    """Remove a cgroup with its children; True while something is left."""
    if not group.exists():
        return False
    for folder, _, _ in os.walk(group, topdown=False):
        for pid in _pids(Path(folder)):
            os.kill(pid, signal.SIGKILL)
        try:
            Path(folder).rmdir()
        except OSError:
            continue
    return group.exists()


def _pids(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _processes() -> Iterator[int]:
    yield from (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _concerns(pid: int, directory: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    program = Path(command[0].decode(errors="replace")).name
    return program.startswith("containerd-shim") and any(directory.encode() in part for part in command)


def _clean_proxy(binary: str) -> None:
    """kube-proxy knows its own chains best."""
    if Path(binary).exists():
        subprocess.run([binary, "--cleanup"], check=False, capture_output=True, timeout=60)
    for table in ("nat", "filter", "mangle"):
        _drop_chains(table, "KUBE-")


def _drop_chains(table: str, prefix: str) -> None:
    """Chains that are left empty or without a jump to them: the kubelet makes some that nobody removes."""
    saved = subprocess.run(["iptables-save", "-t", table], check=False, capture_output=True, text=True).stdout
    jumps = [line for line in saved.splitlines() if line.startswith("-A") and f"-j {prefix}" in line]
    for jump in jumps:
        subprocess.run(["iptables", "-t", table, *shlex.split("-D" + jump[2:])], check=False, capture_output=True)
    chains = [line[1:].split()[0] for line in saved.splitlines() if line.startswith(f":{prefix}")]
    for flag in ("-F", "-X"):
        for chain in chains:
            subprocess.run(["iptables", "-t", table, flag, chain], check=False, capture_output=True)

