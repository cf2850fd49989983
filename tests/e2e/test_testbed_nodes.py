"""Real nodes run what the product's pods are made of."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import nodes
from testbed.controlplane import ControlPlane
from testbed.images import Image, ensure_base
from testbed.images.base import BASE
from testbed.nodes import Node, api
from testbed.nodes.node import nodes_state
from testbed.paths import STATE
from testbed.processes import Processes
from testbed.state import claimed
from tests.support.node_pods import (
    NAMESPACE,
    PODS,
    PORT,
    condition,
    exists,
    get,
    get_json,
    listener,
    open_gate,
    pod,
    run_pod,
    service,
    wait_until,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with claimed("e2e") as state:
        plane = ControlPlane(state, nodes.address(state))
        plane.up()
        yield plane


@pytest.fixture(scope="module")
def two(cluster: ControlPlane) -> list[Node]:
    made = nodes.up(cluster, count=2)
    nodes.load(made, [Image(BASE, ensure_base())])
    return made


def test_both_nodes_are_ready_with_their_own_addresses_and_subnets(cluster: ControlPlane, two: list[Node]) -> None:
    items = api.call(cluster, "GET", "/api/v1/nodes")["items"]
    found = {
        item["metadata"]["name"]: (
            next(one["address"] for one in item["status"]["addresses"] if one["type"] == "InternalIP"),
            item["spec"]["podCIDR"],
            next(one["status"] for one in item["status"]["conditions"] if one["type"] == "Ready"),
        )
        for item in items
    }
    assert found == {node.name: (node.address, node.pods, "True") for node in two}


def test_a_pod_needs_its_gate_and_runs_its_drain_hook_in_the_sidecar(cluster: ControlPlane, two: list[Node]) -> None:
    with listener(cluster.address) as (url, seen):
        body = pod("whole", node=two[0].name, drain_to=f"{url}/drained")
        wait_until(lambda: exists(cluster, f"{NAMESPACE}/serviceaccounts/default"))
        api.call(cluster, "POST", PODS, body)
        wait_until(lambda: condition(cluster, "whole", "ContainersReady") == "True")
        assert condition(cluster, "whole", "Ready") == "False"
        open_gate(cluster, "whole")
        wait_until(lambda: condition(cluster, "whole", "Ready") == "True")

        status = api.call(cluster, "GET", f"{PODS}/whole")["status"]
        assert status["initContainerStatuses"][0]["started"] is True
        assert get_json(f"http://{status['podIP']}:{PORT}/who") == {"pod": "whole", "uid": 65532}
        assert "serving" in api.read(cluster, f"{PODS}/whole/log?container=server")

        api.call(cluster, "DELETE", f"{PODS}/whole")
        wait_until(lambda: not exists(cluster, f"{PODS}/whole"))
        assert seen == ["/drained"]


def test_a_service_answers_host_and_pods_of_both_nodes_and_the_pod_itself(
    cluster: ControlPlane, two: list[Node]
) -> None:
    api.call(cluster, "POST", f"{NAMESPACE}/services", service("near"))
    near = run_pod(cluster, pod("near", node=two[0].name))["status"]["podIP"]
    beside = run_pod(cluster, pod("beside", node=two[0].name))["status"]["podIP"]
    far = run_pod(cluster, pod("far", node=two[1].name))["status"]["podIP"]
    cluster_ip = api.call(cluster, "GET", f"{NAMESPACE}/services/near")["spec"]["clusterIP"]

    wait_until(lambda: get_json(f"http://{cluster_ip}/who")["pod"] == "near")
    for caller in (near, beside, far):
        assert get_json(f"http://{caller}:{PORT}/fetch?http://{cluster_ip}/who")["pod"] == "near"
    assert get_json(f"http://{near}:{PORT}/fetch?http://{far}:{PORT}/who")["pod"] == "far"


def test_a_pod_reaches_the_api_server_by_its_cluster_address_and_verifies_it(
    cluster: ControlPlane, two: list[Node]
) -> None:
    address = run_pod(cluster, pod("asks", node=two[1].name))["status"]["podIP"]
    url, _, document = get(f"http://{address}:{PORT}/api").partition(" ")
    assert url == "https://10.96.0.1/version"
    assert json.loads(document)["minor"] == cluster.minor.partition(".")[2]


def test_each_node_has_its_kubelets_files_where_nodes_have_them(cluster: ControlPlane, two: list[Node]) -> None:
    records = Processes(nodes_state(cluster.state))
    for node in two:
        assert (node.kubelet_root / "plugins_registry").is_dir()
        socket = node.kubelet_root / "pod-resources" / "kubelet.sock"
        assert socket.is_socket()
        for name in ("kubelet", "containerd"):
            process = records.get(f"{name}-{node.number}")
            assert process is not None
            inside = Path(f"/proc/{process.pid}/root/var/lib/kubelet/pod-resources/kubelet.sock")
            assert inside.stat().st_ino == socket.stat().st_ino
    assert not Path("/var/lib/kubelet/pod-resources").exists()


def test_another_test_bed_is_refused_and_changes_nothing_while_nodes_run(
    cluster: ControlPlane, two: list[Node]
) -> None:
    before = nodes.snapshot()
    other = STATE / "test-nodes-other"
    with pytest.raises(nodes.NodesInUse, match=cluster.state.name):
        nodes.address(other)
    nodes.down(other)
    assert nodes.snapshot().rules == before.rules
    assert all(node.socket.is_socket() for node in two)


def test_up_again_leaves_alone_what_runs(cluster: ControlPlane, two: list[Node]) -> None:
    processes = Processes(nodes_state(cluster.state))
    before = {process.name: process.pid for process in processes.all()}
    nodes.up(cluster, count=len(two))
    # kube-proxy ends a moment after somebody has written its configuration.
    time.sleep(2)
    assert {process.name: process.pid for process in processes.all() if process.alive} == before
