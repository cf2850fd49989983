"""What a machine holds that a test bed could leave behind, and what is new since."""

from dataclasses import dataclass, fields
from pathlib import Path

from testbed import mounts
from testbed.nodes import cgroups, rules, sets
from testbed.nodes.journal import FOREIGN_TREES, settings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Names of everything that a node makes outside its own directory."""

    mounts: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    rules: frozenset[str]
    sets: frozenset[str]
    """Of addresses, in the packet filter."""
    files: frozenset[str]
    """Directories at places that programs do not let us choose, and network namespaces."""
    settings: frozenset[str]
    """Kernel parameters with their values."""


def snapshot() -> Snapshot:
    """The machine as it is now."""
    return Snapshot(
        mounts=frozenset(map(str, mounts.below(Path("/")))),
        links=_names("/sys/class/net"),
        cgroups=frozenset(cgroups.existing()),
        processes=frozenset(_node_processes()),
        rules=frozenset(rules.existing()),
        sets=frozenset(sets.existing()),
        files=frozenset(path for path in (*FOREIGN_TREES, *_namespaces()) if Path(path).exists()),
        settings=frozenset(settings()),
    )


def leaks(before: Snapshot) -> list[str]:
    """What is there now and was not before, one line per thing; empty when nothing leaked."""
    now = snapshot()
    return [
        f"{field.name}: {name}"
        for field in fields(Snapshot)
        for name in sorted(getattr(now, field.name) - getattr(before, field.name))
    ]


def _names(directory: str) -> frozenset[str]:
    path = Path(directory)
    return frozenset(entry.name for entry in path.iterdir()) if path.is_dir() else frozenset()


def _namespaces() -> set[str]:
    return {str(path) for path in Path("/run/netns").glob("*")}


def _node_processes() -> set[str]:
    """Processes of the machine that are a node's: by program, or because they run in other namespaces than ours."""
    found, own = set(), Path("/proc/self/ns/pid").readlink()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (directory / "cmdline").read_bytes().split(b"\0")
            foreign = (directory / "ns/pid").readlink() != own
        except OSError:
            continue
        program = Path(arguments[0].decode(errors="replace")).name
        if foreign or program in {"kubelet", "kube-proxy", "kube-router", "containerd", "containerd-shim-runc-v2"}:
            found.add(f"{directory.name} {program}")
    return found
