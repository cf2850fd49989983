"""Which pod a process belongs to, from ``/proc/PID/cgroup``.

Known forms: cgroup v1 (a line per controller) and v2; kubelet with the cgroupfs driver
(``/kubepods/burstable/podUID/CONTAINER``) and with systemd (``/kubepods-podUID.slice/cri-containerd-ID.scope``, the
dashes of the UID as underscores); containerd, CRI-O, Docker, Podman; below any prefix, also a namespace's ``/..``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A UID, or the hash that stands in its place for static pods.
_POD: Final = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?", re.ASCII
)
_CONTAINER: Final = re.compile(r"(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?", re.ASCII)
_LIMIT_BYTES: Final = 64 * 1024
_INITIAL_NAMESPACE: Final = "pid:[4026531836]"
"""A constant of the kernel (PROC_PID_INIT_INO)."""


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """Where a process runs."""

    pod_uid: str
    """With dashes, as the API server writes it."""
    container_id: str = ""
    """64 hexadecimal digits; empty where the runtime uses another form."""


def parse_cgroup(text: str) -> ContainerRef | None:
    """The pod of a process, None for one outside of pods. ``text`` is the content of its cgroup file."""
    for line in text.splitlines():
        # A path may hold colons itself: "...podUID.slice:cri-containerd:ID".
        path = line.split(":", 2)[-1]
        found = _in_path(path)
        if found is not None:
            return found
    return None


def _in_path(path: str) -> ContainerRef | None:
    parts = re.split("[/:]", path)
    for place, part in enumerate(parts):
        pod = _POD.fullmatch(part)
        if pod:
            ids = (_CONTAINER.fullmatch(below) for below in parts[place + 1 :])
            container = next((match[1] for match in ids if match), "")
            return ContainerRef(pod[1].replace("_", "-"), container)
    return None


def container_of(pid: int, *, proc: Path = Path("/proc")) -> ContainerRef | None:
    """The pod of a process of this PID namespace, None when it has none or is gone."""
    try:
        with (proc / str(pid) / "cgroup").open(errors="replace") as file:
            return parse_cgroup(file.read(_LIMIT_BYTES))
    except OSError:
        return None


def sees_host_processes(*, proc: Path = Path("/proc")) -> bool:
    """Whether process numbers here are those of the node (``hostPID``), which are the driver's."""
    try:
        return str((proc / "self" / "ns" / "pid").readlink()) == _INITIAL_NAMESPACE
    except OSError:
        return False
