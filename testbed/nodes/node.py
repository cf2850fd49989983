"""A node: its name, addresses and places."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

API_ADDRESS: Final = "10.245.0.1"
"""Where the API server of a cluster with real nodes listens: an address of the host that pods reach."""
HOST_LINK: Final = "oft-host"
"""Carries the addresses of the API server and the nodes: a machine may have no other than loopback."""
KUBELET_PORT: Final = 10250
KUBELET_DIRECTORY: Final = Path("/var/lib/kubelet")
"""Where each node sees its kubelet's files."""


# Where a machine shares its mounts, the node's must not get out: the mount that holds the directory is parted first.
_INSIDE: Final = f"""
mount --make-private "$(findmnt --noheadings --output=TARGET --target={KUBELET_DIRECTORY})"
mount --rbind "$0" {KUBELET_DIRECTORY}
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One kubelet with its own containerd. ``number`` counts from 1."""

    number: int
    directory: Path
    """Everything of this node; below the test bed's state directory."""

    @property
    def name(self) -> str:
        """As the API server knows it."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """InternalIP: the kubelet listens there on port 10250, the healthz server on 10248."""
        return f"10.245.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The pod subnet."""
        return f"10.244.{self.number}.0/24"

    @property
    def network(self) -> str:
        """The name of the CNI network and of the cgroup."""
        return f"oft-{self.name}"

    @property
    def socket(self) -> Path:
        """containerd's: ``ctr -a SOCKET -n k8s.io ...``."""
        return self.directory / "containerd.sock"

    @property
    def images(self) -> Path:
        """Root of the containerd: what images hold."""
        return self.directory / "containerd"

    @property
    def kubelet_root(self) -> Path:
        """What is ``/var/lib/kubelet`` on the node: ``plugins_registry/`` takes device plugins."""
        return self.directory / "kubelet"

    @property
    def gpus(self) -> Path:
        """Of the fake GPUs, where the node has some."""
        return self.directory / "gpus"

    @property
    def gpu_runtime(self) -> Path:
        """The runtime behind containerd's handler ``nvidia``; made with the GPUs."""
        return self.gpus / "runtime"

    def inside(self, *command: str | Path) -> list[str | Path]:
        """The command line that runs a program of the node: as on any node, ``/var/lib/kubelet`` is its own there.

        All other files are the machine's. Mounts below the node's directory are seen inside and outside.
        """
        return ["unshare", "--mount", "--propagation=unchanged", "sh", "-ec", _INSIDE, self.kubelet_root, *command]

    @property
    def pod_logs(self) -> Path:
        """Logs of containers: ``NAMESPACE_POD_UID/CONTAINER/N.log``."""
        return self.directory / "pod-logs"


def nodes_state(state: Path) -> Path:
    """Where the nodes of a test bed keep their records, below its state directory."""
    return state / "nodes"


def nodes_of(state: Path, count: int) -> list[Node]:
    """The first ``count`` nodes of a test bed."""
    return [Node(number, nodes_state(state) / f"node-{number}") for number in range(1, count + 1)]


def made_nodes(state: Path) -> Iterator[Node]:
    """The nodes that were ever started and not removed."""
    for path in sorted(nodes_state(state).glob("node-*")):
        yield Node(int(path.name.removeprefix("node-")), path)
