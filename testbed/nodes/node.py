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
    def kubelet_root(self) -> Path:
        """The kubelet's ``--root-dir``: ``plugins_registry/`` takes device plugins, ``pod-resources/`` answers."""
        return self.directory / "kubelet"

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
