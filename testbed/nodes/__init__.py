"""Real nodes on this machine: a kubelet and a containerd each, real pods, Services and pod networks.

The packet filter, the links and the cgroups of a machine are shared, so one test bed at a time has nodes. All that is
made outside its directory is written down first; ``down`` removes exactly that, also after a crash.
"""

import json
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from testbed import mounts, packages
from testbed.controlplane import ControlPlane
from testbed.images import Image, ensure_pause
from testbed.images.image import locked
from testbed.journal import Journal
from testbed.nodes import cgroups, journal, kubelet, links, policies, rules, runtime
from testbed.nodes.leaks import Snapshot, leaks, snapshot
from testbed.nodes.node import API_ADDRESS, HOST_LINK, KUBELET_DIRECTORY, Node, made_nodes, nodes_of, nodes_state
from testbed.paths import STATE
from testbed.processes import Process, Processes, this_process

__all__ = ["Node", "NodesInUse", "Snapshot", "address", "down", "leaks", "load", "power_off", "snapshot", "up"]

_OWNER: Final = STATE / "nodes-owner"


class NodesInUse(Exception):
    """Another test bed, or another Kubernetes, has its nodes on this machine."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose the machine's nodes are."""

    state: Path
    claimant: Process
    """Who made them: they are its own before the first of their programs runs."""

    @property
    def lives(self) -> bool:
        return self.claimant.alive or any(one.alive for one in Processes(nodes_state(self.state)).all())


def address(state: Path) -> str:
    """Make the address for the API server of a cluster with nodes: give it to ``ControlPlane`` before its ``up``.

    Installs the Debian packages that nodes run if they are missing. Raises NodesInUse, NotInstalled.
    """
    packages.need(packages.NODES)
    _claim(state)
    record = _open(state)
    record.record(journal.LINK, HOST_LINK)
    _ensure_link([API_ADDRESS])
    return API_ADDRESS


def up(cluster: ControlPlane, *, count: int = 1) -> list[Node]:
    """Start what does not run of ``count`` nodes and wait until they are Ready; the control plane must be up.

    Raises NodesInUse, NotReady.
    """
    address(cluster.state)
    nodes = nodes_of(cluster.state, count)
    _prepare(cluster.state, nodes)
    processes = Processes(nodes_state(cluster.state))
    for node in nodes:
        runtime.start(node, processes)
    load(nodes, [ensure_pause()])
    for node in nodes:
        kubelet.start_kubelet(node, cluster, processes)
    kubelet.start_proxy(nodes[0], cluster, processes)
    for node in nodes:
        kubelet.wait_ready(node, cluster, processes)
    return nodes


def load(nodes: Iterable[Node], images: Iterable[Image]) -> None:
    """Give every node the images; pods use them with ``imagePullPolicy: IfNotPresent``."""
    nodes, images = list(nodes), list(images)

    def give(node: Node) -> None:
        for image in images:
            runtime.load(node, image)

    with ThreadPoolExecutor() as pool:
        list(pool.map(give, nodes))


def power_off(state: Path, node: Node) -> None:
    """What a loss of power leaves of a node: its files, and nothing that runs. ``up`` starts it again."""
    processes = Processes(nodes_state(state))
    processes.kill(f"gpus-{node.number}")
    processes.kill(f"kubelet-{node.number}")
    cgroups.kill(node.network)
    processes.kill(f"containerd-{node.number}")
    runtime.end_shims(node)


def down(state: Path) -> None:
    """Remove the nodes of a test bed, running or crashed, and all that they left on the machine. May be repeated."""
    _remove(state)
    with locked(_OWNER):
        owner = _owner()
        if owner is not None and owner.state == state:
            _OWNER.unlink()


def _remove(state: Path) -> None:
    processes = Processes(nodes_state(state))
    nodes = list(made_nodes(state))
    processes.stop(policies.PROGRAM)
    processes.stop("kube-proxy")
    for node in nodes:
        processes.stop(f"gpus-{node.number}")
        processes.stop(f"kubelet-{node.number}")
        cgroups.kill(node.network)
        processes.stop(f"containerd-{node.number}")
        runtime.end_shims(node)
        links.remove(node.pods)
        mounts.remove_tree(node.directory)
    journal.open_journal(nodes_state(state)).undo_all()


def _prepare(state: Path, nodes: list[Node]) -> None:
    record = _open(state)
    journal.record_machine(record)
    for node in nodes:
        record.record(journal.CNI_RESULTS, node.network)
        record.record(journal.CGROUP, node.network)
        cgroups.make(node.network)
        node.kubelet_root.mkdir(parents=True, exist_ok=True)
        mounts.share(node.directory)
    KUBELET_DIRECTORY.mkdir(parents=True, exist_ok=True)
    _ensure_link([API_ADDRESS, *(node.address for node in nodes)])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    rules.add()


def _open(state: Path) -> Journal:
    nodes_state(state).mkdir(parents=True, exist_ok=True)
    record = journal.open_journal(nodes_state(state))
    if not record.entries():
        if rules.foreign_chains():
            raise NodesInUse(
                "this machine's packet filter has chains of another Kubernetes; real nodes would mix with it"
            )
        record.record(journal.RULES, "all")
    return record


def _claim(state: Path) -> None:
    with locked(_OWNER):
        owner = _owner()
        if owner is not None and owner.state != state:
            if owner.lives:
                raise NodesInUse(f"the test bed in {owner.state} has nodes on this machine")
            _remove(owner.state)
        partial = _OWNER.with_suffix(".partial")
        partial.write_text(json.dumps([str(state), asdict(this_process())]))
        partial.replace(_OWNER)


def _owner() -> _Owner | None:
    if not _OWNER.exists():
        return None
    state, claimant = json.loads(_OWNER.read_text())
    return _Owner(Path(state), Process(**claimant))


def _ensure_link(addresses: list[str]) -> None:
    """A bridge without ports: it works where the kernel has no dummy links."""
    if not Path("/sys/class/net", HOST_LINK).exists():
        _ip("link", "add", HOST_LINK, "type", "bridge")
    _ip("link", "set", HOST_LINK, "up")
    for one in addresses:
        _ip("address", "replace", f"{one}/32", "dev", HOST_LINK)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
