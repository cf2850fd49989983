"""The test bed leaves a machine as it found it, after an orderly end and after a crash."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import nodes
from testbed.controlplane import ControlPlane
from testbed.fakes.gpus import NodeGpus, cards
from testbed.images import Image, ensure_base
from testbed.images.base import BASE
from testbed.nodes import Node, api, links, policies, sets
from testbed.nodes.node import nodes_state
from testbed.paths import ROOT
from testbed.processes import Processes
from testbed.state import claimed
from tests.support.node_pods import PORT, get_json, pod, run_pod, wait_until

pytestmark = pytest.mark.e2e

_UP = """
import sys
from pathlib import Path
from testbed import nodes
from testbed.controlplane import ControlPlane
state = Path(sys.argv[1])
nodes.up(ControlPlane(state, nodes.address(state)))
"""


@pytest.fixture
def state() -> Iterator[Path]:
    with claimed("e2e") as directory:
        yield directory


@pytest.fixture
def before(state: Path) -> nodes.Snapshot:
    return nodes.snapshot()


@pytest.fixture
def cluster(state: Path, before: nodes.Snapshot) -> ControlPlane:
    plane = ControlPlane(state, nodes.address(state))
    plane.up()
    return plane


def _with_a_pod(cluster: ControlPlane) -> Node:
    node = nodes.up(cluster)[0]
    nodes.load([node], [Image(BASE, ensure_base())])
    run_pod(cluster, pod("stays", node=node.name))
    return node


def _enforce(cluster: ControlPlane) -> None:
    """One network policy, for without any there are no sets of addresses."""
    meta = {"name": "deny-all", "namespace": "default"}
    body = {"kind": "NetworkPolicy", "metadata": meta, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    api.create(cluster, "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", body)
    policies.start(cluster)
    assert sets.existing()


def _kill_everything(state: Path) -> None:
    processes = Processes(nodes_state(state))
    for name in ("kubelet-1", "containerd-1", "kube-proxy", policies.PROGRAM):
        processes.kill(name)


def test_nothing_stays_of_a_node_with_a_running_pod_nor_of_policies_that_are_enforced_no_longer(
    cluster: ControlPlane, before: nodes.Snapshot
) -> None:
    node = _with_a_pod(cluster)
    NodeGpus(cluster, node).up(cards(node.name, 1))
    gpus = Processes(nodes_state(cluster.state)).get("gpus-1")
    assert gpus is not None
    without = nodes.snapshot()
    _enforce(cluster)
    kinds = {line.partition(":")[0] for line in nodes.leaks(before)}
    assert kinds == {"mounts", "links", "cgroups", "processes", "rules", "sets", "files", "settings"}
    policies.stop(cluster.state)
    left = {line for line in nodes.leaks(without) if line.startswith(("rules", "sets", "processes"))}
    assert left == set()
    status = api.call(cluster, "GET", "/api/v1/namespaces/default/pods/stays")["status"]
    assert get_json(f"http://{status['podIP']}:{PORT}/who")["pod"] == "stays"
    _enforce(cluster)
    nodes.down(cluster.state)
    assert nodes.leaks(before) == []
    assert not node.directory.exists()
    assert not gpus.alive


def test_nothing_stays_when_the_one_who_started_it_is_killed_halfway(
    cluster: ControlPlane, before: nodes.Snapshot
) -> None:
    started = subprocess.Popen([sys.executable, "-c", _UP, str(cluster.state)], cwd=ROOT)
    processes = Processes(nodes_state(cluster.state))
    wait_until(lambda: processes.get("containerd-1") is not None)
    started.kill()
    started.wait()
    assert processes.get("kubelet-1") is None
    nodes.down(cluster.state)
    assert nodes.leaks(before) == []


def test_up_after_a_crash_finds_the_pods_running_and_nothing_stays_after_another(
    cluster: ControlPlane, before: nodes.Snapshot
) -> None:
    node = _with_a_pod(cluster)
    _enforce(cluster)
    _kill_everything(cluster.state)
    assert sets.existing()
    assert nodes.up(cluster) == [node]
    status = api.call(cluster, "GET", "/api/v1/namespaces/default/pods/stays")["status"]
    wait_until(lambda: get_json(f"http://{status['podIP']}:{PORT}/who")["pod"] == "stays")
    assert status["containerStatuses"][0]["restartCount"] == 0
    run_pod(cluster, pod("comes", node=node.name))
    _kill_everything(cluster.state)
    assert sets.existing()
    nodes.down(cluster.state)
    assert nodes.leaks(before) == []


def test_a_pod_whose_network_outlives_its_node_keeps_no_route() -> None:
    """Its address may be the next pod's, which then would get no route of its own."""
    space, link, subnet = "oft-outlives", "oft-outlives0", "10.244.250.0/24"
    _ip("netns", "add", space)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("address", "add", "10.244.250.1/32", "dev", link)
        _ip("link", "set", link, "up")
        _ip("route", "add", "10.244.250.3/32", "dev", link)
        assert link in _ip("route", "show", "10.244.250.3")
        links.remove(subnet)
        assert not _ip("route", "show", "10.244.250.3")
        assert link not in _ip("link", "show")
        assert space in _ip("netns", "list")
    finally:
        _ip("netns", "delete", space)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
