"""What real nodes change on the machine, and how each change is undone; every undo may be repeated."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from testbed.journal import Journal
from testbed.nodes import cgroups, rules, sets

TREE: Final = "tree"
LINK: Final = "link"
SYSCTL: Final = "sysctl"
RULES: Final = "rules"
CGROUP: Final = "cgroup"
CNI_RESULTS: Final = "cni-results"
POLICIES: Final = "policies"

# Written by programs at paths that cannot be configured; removed when they were not there before.
FOREIGN_TREES: Final = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/run/netns")
# Set by the kubelet (the first six), for forwarding between pods, and by the CNI plugin.
_SYSCTLS: Final = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.default.forwarding",
)
_SYSTEM: Final = Path("/proc/sys")


def open_journal(state: Path) -> Journal:
    """The journal of the nodes below a test bed's state directory."""
    undo = {
        TREE: lambda name: shutil.rmtree(name, ignore_errors=True),
        LINK: _delete_link,
        SYSCTL: _restore_sysctl,
        RULES: rules.remove,
        CGROUP: cgroups.remove,
        CNI_RESULTS: _remove_results,
        POLICIES: remove_policies,
    }
    return Journal(state, undo)


def record_machine(journal: Journal) -> None:
    """Write down, once, how the machine was before the first node."""
    if any(kind == SYSCTL for kind, _ in journal.entries()):
        return
    for name in FOREIGN_TREES:
        if not Path(name).exists():
            journal.record(TREE, name)
    for setting in settings():
        journal.record(SYSCTL, setting)


def remove_policies(_: str = "") -> None:
    """Remove what enforces network policies: its rules, then the sets that they look into."""
    rules.remove_policies()
    sets.remove()


def settings() -> list[str]:
    """The kernel parameters that nodes change, as ``NAME=VALUE``."""
    paths = ((name, _sysctl(name)) for name in _SYSCTLS)
    return [f"{name}={path.read_text().strip()}" for name, path in paths if path.exists()]


def _sysctl(name: str) -> Path:
    return _SYSTEM / name.replace(".", "/")


def _restore_sysctl(entry: str) -> None:
    name, _, value = entry.partition("=")
    path = _sysctl(name)
    # Writing the same value to ip_forward resets per-interface settings.
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)


def _delete_link(name: str) -> None:
    if Path("/sys/class/net", name).exists():
        subprocess.run(["ip", "link", "delete", name], check=True)


def _remove_results(network: str) -> None:
    for path in Path("/var/lib/cni").glob(f"*/{network}-*"):
        path.unlink()
