"""Pods on simulated nodes behave as on a real kubelet in what tests of the operator rely on."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed.kwok import SimulatedNodes
from testbed.nodes import api

pytestmark = pytest.mark.cluster

GATE = "ollamafleet.io/vram-resident"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def node(kwok_cluster: SimulatedNodes) -> Iterator[str]:
    name = f"simulated-{uuid.uuid4().hex[:6]}"
    kwok_cluster.add(name, number=200, resources={"nvidia.com/gpu": "4"})
    yield name
    kwok_cluster.remove(name)


def pod(node: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{uuid.uuid4().hex[:8]}", "annotations": {}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "automountServiceAccountToken": False,
            "containers": [{"name": "server", "image": "none.invalid/server"}],
            **spec,
        },
    }


class Pods:
    """The pods of one test, gone after it."""

    def __init__(self, cluster: SimulatedNodes) -> None:
        self.cluster = cluster
        self.names: list[str] = []

    def create(self, body: dict[str, Any]) -> str:
        name: str = body["metadata"]["name"]
        api.call(self.cluster.plane, "POST", PODS, body)
        self.names.append(name)
        return name

    def get(self, name: str) -> dict[str, Any]:
        return api.call(self.cluster.plane, "GET", f"{PODS}/{name}")

    def conditions(self, name: str) -> dict[str, str]:
        return {one["type"]: one["status"] for one in self.get(name)["status"].get("conditions", [])}

    def gate(self, name: str, status: str) -> None:
        body = {"status": {"conditions": [{"type": GATE, "status": status}]}}
        api.call(self.cluster.plane, "PATCH", f"{PODS}/{name}/status", body)

    def wait(self, name: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        api.wait(f"{name} did not change", lambda: done(self.get(name)["status"]), seconds=20, log="kwok")
        return self.get(name)

    def wait_ready(self, name: str, status: str = "True") -> None:
        api.wait(f"Ready {status}", lambda: self.conditions(name).get("Ready") == status, seconds=20, log="kwok")

    def stays(self, name: str, ready: str, *, seconds: float = 1.5) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.conditions(name)["Ready"] == ready
            time.sleep(0.1)


@pytest.fixture
def pods(kwok_cluster: SimulatedNodes) -> Iterator[Pods]:
    made = Pods(kwok_cluster)
    yield made
    for name in made.names:
        api.call(kwok_cluster.plane, "DELETE", f"{PODS}/{name}")


def running(status: dict[str, Any]) -> bool:
    return bool(status["phase"] == "Running")


def test_a_gate_holds_the_pod_back_until_it_is_opened_and_again_when_it_is_closed(pods: Pods, node: str) -> None:
    name = pods.create(pod(node, readinessGates=[{"conditionType": GATE}]))
    pods.wait(name, running)
    assert pods.conditions(name)["ContainersReady"] == "True"
    assert GATE not in pods.conditions(name)
    pods.stays(name, "False")
    pods.gate(name, "False")
    pods.stays(name, "False")
    pods.gate(name, "True")
    pods.wait_ready(name)
    pods.gate(name, "False")
    pods.wait_ready(name, "False")


def test_every_gate_counts(pods: Pods, node: str) -> None:
    name = pods.create(pod(node, readinessGates=[{"conditionType": GATE}, {"conditionType": "example.com/other"}]))
    pods.wait(name, running)
    pods.gate(name, "True")
    pods.stays(name, "False")


def test_a_pod_without_gates_becomes_ready(pods: Pods, node: str) -> None:
    name = pods.create(pod(node))
    pods.wait_ready(name)


def test_init_containers_end_and_sidecars_go_on(pods: Pods, node: str) -> None:
    inits = [
        {"name": "sidecar", "image": "none.invalid/sidecar", "restartPolicy": "Always"},
        {"name": "puller", "image": "none.invalid/puller"},
    ]
    body = pod(node, initContainers=inits)
    body["metadata"]["annotations"]["testbed.ollamafleet.io/init-for"] = "2s"
    name = pods.create(body)
    status = pods.wait(name, lambda status: "podIP" in status)["status"]
    assert status["phase"] == "Pending"
    assert {one["name"]: set(one["state"]) for one in status["initContainerStatuses"]} == {
        "sidecar": {"running"},
        "puller": {"running"},
    }
    assert [set(one["state"]) for one in status["containerStatuses"]] == [{"waiting"}]
    status = pods.wait(name, running)["status"]
    assert {one["name"]: set(one["state"]) for one in status["initContainerStatuses"]} == {
        "sidecar": {"running"},
        "puller": {"terminated"},
    }
    assert [one["ready"] for one in status["containerStatuses"]] == [True]


def test_pods_have_loopback_addresses_of_their_own(pods: Pods, node: str) -> None:
    names = [pods.create(pod(node)) for _ in range(3)]
    addresses = {pods.wait(name, running)["status"]["podIP"] for name in names}
    assert len(addresses) == 3
    assert all(address.startswith("127.32.200.") for address in addresses)


def test_services_have_the_ready_pods_of_a_node_without_loopback_as_endpoints(
    kwok_cluster: SimulatedNodes, pods: Pods
) -> None:
    node, app = f"simulated-{uuid.uuid4().hex[:6]}", f"app-{uuid.uuid4().hex[:6]}"
    kwok_cluster.add(node, number=201, loopback=False)
    service = {"metadata": {"name": app}, "spec": {"selector": {"app": app}, "ports": [{"port": 80}]}}
    api.call(kwok_cluster.plane, "POST", "/api/v1/namespaces/default/services", service)
    gated, ready = pod(node, readinessGates=[{"conditionType": GATE}]), pod(node)
    for body in (gated, ready):
        body["metadata"]["labels"] = {"app": app}
        pods.create(body)
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    selector = f"?labelSelector=kubernetes.io/service-name%3D{app}"

    def endpoints() -> dict[str, bool]:
        slices = api.call(kwok_cluster.plane, "GET", path + selector)["items"]
        found = [one for entry in slices for one in entry.get("endpoints") or []]
        return {one["targetRef"]["name"]: one["conditions"]["ready"] for one in found}

    expected = {gated["metadata"]["name"]: False, ready["metadata"]["name"]: True}
    api.wait("endpoints", lambda: endpoints() == expected, seconds=20, log="kube-controller-manager")
    api.call(kwok_cluster.plane, "DELETE", f"/api/v1/namespaces/default/services/{app}")
    kwok_cluster.remove(node)


def test_gpus_are_counted_by_the_scheduler(pods: Pods, node: str) -> None:
    gpus = {"limits": {"nvidia.com/gpu": "3"}}
    containers = [{"name": "server", "image": "none.invalid/server", "resources": gpus}]
    first = pods.create(pod(node, containers=containers))
    pods.wait(first, running)
    second = pods.create(pod(node, containers=containers))
    status = pods.wait(second, lambda status: bool(status.get("conditions")))["status"]
    assert {"reason": "Unschedulable", "status": "False"}.items() <= status["conditions"][0].items()


def test_the_pod_of_a_job_runs_and_completes(kwok_cluster: SimulatedNodes, node: str) -> None:
    name = f"job-{uuid.uuid4().hex[:8]}"
    template = pod(node, restartPolicy="Never")
    body = {"metadata": {"name": name}, "spec": {"template": {"spec": template["spec"]}}}
    jobs = "/apis/batch/v1/namespaces/default/jobs"
    api.call(kwok_cluster.plane, "POST", jobs, body)

    def complete() -> bool:
        return api.call(kwok_cluster.plane, "GET", f"{jobs}/{name}")["status"].get("succeeded") == 1

    api.wait(f"{name} is not complete", complete, seconds=20, log="kwok")
    api.call(kwok_cluster.plane, "DELETE", f"{jobs}/{name}?propagationPolicy=Background")
