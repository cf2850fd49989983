"""What an SRE does to a fleet at night, and that it comes back; each test prints its recovery time."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testbed import nodes
from testbed.models.push import image, into_registry
from tests.e2e.conftest import OPERATOR_NAMESPACE, Fleet, deployment, made_namespace, model_set

pytestmark = pytest.mark.e2e

CHAT = {"name": "chat", "contextLength": 2048}


@pytest.fixture(scope="module")
def home(fleet: Fleet) -> Iterator[str]:
    """The namespace of an OllamaDeployment that is hit again and again."""
    with made_namespace(fleet, "recovers") as name:
        fleet.apply(model_set(fleet, name, CHAT), deployment(name))
        yield name


@pytest.fixture
def chat(fleet: Fleet, home: str) -> str:
    """The same, Ready and with one server, whatever was done to it before."""
    restore(fleet, home)
    fleet.wait("one server is left", lambda: len(fleet.pods(home)) == 1)
    return home


def restore(fleet: Fleet, namespace: str) -> None:
    """The spec as it was made, and nothing else in it."""
    fleet.run("replace", "-f", "-", stdin=yaml.safe_dump(deployment(namespace)))
    fleet.wait_ready("chat", namespace)


def ready_pods(fleet: Fleet, namespace: str) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in fleet.pods(namespace)
        for entry in pod["status"].get("conditions", ())
        if entry["type"] == "Ready" and entry["status"] == "True"
    }


def container(pod: Any, name: str) -> Any:
    statuses = (*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ()))
    return next(entry for entry in statuses if entry["name"] == name)


def restarts(pod: Any) -> dict[str, int]:
    """How often each container of a server was started again."""
    return {name: container(pod, name)["restartCount"] for name in ("ollama", "sidecar")}


def kill_container(fleet: Fleet, namespace: str, name: str) -> None:
    """SIGKILL to the first process of a container, from the host."""
    (pod,) = fleet.pods(namespace)
    wanted = container(pod, name)["containerID"].rpartition("/")[2]
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            mine = wanted in (path / "cgroup").read_text()
            first = (path / "status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1"
        except (OSError, IndexError):
            continue
        if mine and first:
            os.kill(int(path.name), signal.SIGKILL)
            return
    raise AssertionError(f"container {name} has no process")


def serves_again(fleet: Fleet, namespace: str) -> None:
    """The pod first: for a moment after it left service the deployment's status is that of before."""
    fleet.wait("a pod serves again", lambda: bool(ready_pods(fleet, namespace)))
    fleet.wait_ready("chat", namespace)


def test_a_deleted_pod_comes_back(fleet: Fleet, chat: str) -> None:
    fleet.run("delete", "pods", "--all", "-n", chat, "--wait=false")
    started = time.monotonic()
    fleet.wait("the pod leaves service", lambda: not ready_pods(fleet, chat), seconds=30)
    serves_again(fleet, chat)
    print(f"pod deleted: ready after {time.monotonic() - started:.1f} s")


def test_a_killed_ollama_closes_the_gate_and_is_warmed_again(fleet: Fleet, chat: str) -> None:
    (before,) = fleet.pods(chat)
    kill_container(fleet, chat, "ollama")
    started = time.monotonic()
    fleet.wait("the pod leaves service", lambda: not ready_pods(fleet, chat), seconds=20)
    print(f"ollama killed: out of service after {time.monotonic() - started:.1f} s")
    serves_again(fleet, chat)
    print(f"ollama killed: ready after {time.monotonic() - started:.1f} s")
    (after,) = fleet.pods(chat)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert restarts(after) == restarts(before) | {"ollama": restarts(before)["ollama"] + 1}


def test_a_killed_sidecar_comes_back_without_restarting_ollama(fleet: Fleet, chat: str) -> None:
    before = restarts(fleet.pods(chat)[0])
    kill_container(fleet, chat, "sidecar")
    fleet.wait("the sidecar restarted", lambda: restarts(fleet.pods(chat)[0])["sidecar"] == before["sidecar"] + 1)
    print(f"sidecar killed: ready after {fleet.wait_ready('chat', chat):.1f} s")
    assert restarts(fleet.pods(chat)[0])["ollama"] == before["ollama"]


def test_ollama_stop_in_the_pod_takes_it_out_of_service_until_the_model_is_back(fleet: Fleet, chat: str) -> None:
    (pod,) = fleet.pods(chat)
    name = pod["metadata"]["name"]

    def logged(words: str) -> int:
        return fleet.run("logs", "-n", chat, name, "-c", "sidecar").count(words)

    left, warm = logged("model left the memory"), logged("model is warm")
    fleet.run("exec", "-n", chat, name, "-c", "ollama", "--", "ollama", "stop", "chat")
    fleet.wait("the sidecar notices", lambda: logged("model left the memory") == left + 1, seconds=15)
    fleet.wait("the model is back", lambda: logged("model is warm") == warm + 1, seconds=30)
    fleet.wait_ready("chat", chat)


def test_a_killed_operator_leaves_serving_pods_alone_and_finishes_a_rollout(fleet: Fleet, chat: str) -> None:
    url = fleet.address("chat-g0", chat)
    fleet.patch("od", "chat", chat, {"spec": {"tuning": {"numParallel": 2}}})
    fleet.run("delete", "pods", "--all", "-n", OPERATOR_NAMESPACE, "--force", "--grace-period=0", "--wait=false")
    body = {"model": "chat", "prompt": "hello", "stream": False, "options": {"num_predict": 2}}
    started = time.monotonic()
    while time.monotonic() - started < 5:
        assert httpx.post(f"{url}/api/generate", json=body, timeout=10).status_code == 200
        time.sleep(0.1)
    print(f"operator killed in a rollout: done after {5 + fleet.wait_ready('chat', chat, seconds=120):.1f} s")
    effective = fleet.get("od", "chat", chat)["status"]["effective"]
    assert {"name": "OLLAMA_NUM_PARALLEL", "value": "2"}.items() <= next(
        value for value in effective if value["name"] == "OLLAMA_NUM_PARALLEL"
    ).items()


def test_a_rollout_never_has_fewer_ready_pods_than_before(fleet: Fleet, chat: str) -> None:
    fleet.patch("od", "chat", chat, {"spec": {"replicas": 2}})
    fleet.wait_ready("chat", chat)
    old = ready_pods(fleet, chat)
    assert len(old) == 2
    fleet.patch("od", "chat", chat, {"spec": {"tuning": {"maxQueue": 100}}})
    least = 2
    deadline = time.monotonic() + 90
    while ready_pods(fleet, chat) & old and time.monotonic() < deadline:
        least = min(least, len(ready_pods(fleet, chat)))
    fleet.wait_ready("chat", chat)
    assert not ready_pods(fleet, chat) & old
    assert least == 2


def test_without_room_for_both_old_servers_make_room_one_by_one(fleet: Fleet, namespace: str) -> None:
    # Two nodes of the machine's cores each: one server of this size fits on each, and no third one.
    cores = int(fleet.get("node", fleet.made[0].name)["status"]["allocatable"]["cpu"])
    large = {"cpu": {"cores": f"{cores * 1000 - 600}m", "memory": "512Mi"}}
    fleet.apply(model_set(fleet, namespace, CHAT), deployment(namespace, hardware=large, replicas=2))
    fleet.wait_ready("chat", namespace)
    old = ready_pods(fleet, namespace)
    fleet.patch("od", "chat", namespace, {"spec": {"tuning": {"maxQueue": 100}}})
    fleet.wait_reason("od", "chat", namespace, "Unschedulable")
    assert ready_pods(fleet, namespace) == old
    fleet.wait(
        "the status says that servers go one by one",
        lambda: "one by one" in fleet.condition("od", "chat", namespace, "Reconciling").get("message", ""),
        seconds=30,
    )
    print(f"rollout without room: done after {fleet.wait_ready('chat', namespace, seconds=150):.1f} s")
    assert not ready_pods(fleet, namespace) & old


def test_a_wish_that_fits_nowhere_costs_no_server(fleet: Fleet, chat: str) -> None:
    serving = ready_pods(fleet, chat)
    fleet.patch("od", "chat", chat, {"spec": {"hardware": {"cpu": {"cores": "999", "memory": "512Mi"}}}})
    fleet.wait_reason("od", "chat", chat, "Unschedulable")
    time.sleep(15)
    assert ready_pods(fleet, chat) == serving


def test_a_registry_that_is_away_is_waited_for(fleet: Fleet, namespace: str) -> None:
    fleet.registry.down()
    try:
        fleet.apply(model_set(fleet, namespace, CHAT), deployment(namespace))
        condition = fleet.wait_reason("mset", "models", namespace, "RegistryUnreachable")
        assert condition["status"] == "False"
        assert fleet.condition("mset", "models", namespace, "Stalled")["status"] == "False"
    finally:
        fleet.registry.up()
    print(f"registry back: ready after {fleet.wait_ready('chat', namespace, seconds=150):.1f} s")


BAD_EDITS: list[tuple[str, dict[str, Any], str, str]] = [
    ("modelSets", {"modelSets": [{"name": "nope"}]}, "ModelSetMissing", "ModelSet nope does not exist"),
    ("version-old", {"version": "0.11.0"}, "UnsupportedVersion", "spec.version 0.11.0 is older than 0.20.3"),
    ("version-missing", {"version": "0.99.0"}, "ImagePullFailed", "localhost/ollama:0.99.0"),
    ("image", {"image": "localhost/nothing:1"}, "ImagePullFailed", "localhost/nothing:1"),
    (
        "variable",
        {"tuning": {"extraEnv": [{"name": "OLLAMA_NUM_GPU", "value": "1"}]}},
        "UnknownVariable",
        "OLLAMA_NUM_GPU",
    ),
    ("nodeSelector", {"placement": {"nodeSelector": {"no": "such"}}}, "Unschedulable", "node"),
    ("affinity", {"placement": {"affinity": {"nodeAfinity": {}}}}, "InvalidSpec", "nodeAfinity"),
    ("priority", {"placement": {"priorityClassName": "nope"}}, "InvalidSpec", "nope"),
    (
        "gpu",
        {"hardware": {"cpu": None, "gpu": {"count": 1, "products": ["NVIDIA-H900"]}}},
        "Unschedulable",
        "nvidia.com/gpu.product In NVIDIA-H900",
    ),
]


@pytest.mark.parametrize(("edit", "reason", "words"), [edit[1:] for edit in BAD_EDITS], ids=[e[0] for e in BAD_EDITS])
def test_a_bad_edit_is_named_and_takes_nothing_down(
    fleet: Fleet, chat: str, edit: dict[str, Any], reason: str, words: str
) -> None:
    serving = ready_pods(fleet, chat)
    assert serving
    fleet.patch("od", "chat", chat, {"spec": edit})
    condition = fleet.wait_reason("od", "chat", chat, reason)
    assert words in condition["message"]
    assert fleet.condition("od", "chat", chat, "Stalled")["status"] == "True"
    assert serving <= ready_pods(fleet, chat)
    restore(fleet, chat)
    assert serving <= ready_pods(fleet, chat)


def test_an_unknown_model_stalls_until_it_appears_in_the_registry(fleet: Fleet, namespace: str) -> None:
    fleet.apply(model_set(fleet, namespace, {"name": "chat", "model": f"late-{namespace}"}), deployment(namespace))
    assert "404" in fleet.wait_reason("mset", "models", namespace, "ModelNotFound")["message"]
    assert fleet.wait_reason("od", "chat", namespace, "ModelNotFound")
    into_registry(image("chat"), fleet.registry.url, f"library/late-{namespace}")
    print(f"model appeared: ready after {fleet.wait_ready('chat', namespace, seconds=150):.1f} s")


def test_a_wrong_digest_is_refused(fleet: Fleet, namespace: str) -> None:
    wrong = "sha256:" + "0" * 64
    fleet.apply(model_set(fleet, namespace, {**CHAT, "digest": wrong}), deployment(namespace))
    fleet.wait(
        "the digest is refused",
        lambda: (
            fleet.condition("mset", "models", namespace, "Ready").get("reason") in {"ModelNotFound", "DigestMismatch"}
        ),
    )
    assert fleet.condition("mset", "models", namespace, "Stalled")["status"] == "True"


def test_quota_is_named(fleet: Fleet, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    fleet.apply(quota, model_set(fleet, namespace, CHAT), deployment(namespace))
    assert "exceeded quota" in fleet.wait_reason("od", "chat", namespace, "QuotaExceeded")["message"]
    fleet.run("delete", "resourcequota", "none", "-n", namespace)
    fleet.wait_ready("chat", namespace, seconds=120)


def test_a_drained_node_gives_its_pods_to_the_other(fleet: Fleet, chat: str) -> None:
    (pod,) = fleet.pods(chat)
    node = pod["spec"]["nodeName"]
    try:
        fleet.run("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
        print(f"node drained: ready after {fleet.wait_ready('chat', chat):.1f} s")
        assert {pod["spec"]["nodeName"] for pod in fleet.pods(chat)} != {node}
    finally:
        fleet.run("uncordon", node)


def test_a_node_without_power_gives_its_server_to_the_other(fleet: Fleet, namespace: str) -> None:
    gone = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    # Five minutes by Kubernetes' own default.
    soon = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2} for key in gone]
    wish = deployment(namespace, replicas=2, placement={"tolerations": soon})
    fleet.apply(model_set(fleet, namespace, CHAT), wish)
    fleet.wait_ready("chat", namespace)
    dead, alive = fleet.made[1], fleet.made[0]
    assert {pod["spec"]["nodeName"] for pod in fleet.pods(namespace)} == {dead.name, alive.name}
    (lost,) = (pod["metadata"]["uid"] for pod in fleet.pods(namespace) if pod["spec"]["nodeName"] == dead.name)
    url, started = fleet.address("chat-g0", namespace), time.monotonic()
    nodes.power_off(fleet.plane.state, dead)
    try:
        fleet.wait("the dead server leaves service", lambda: lost not in ready_pods(fleet, namespace), seconds=90)
        print(f"node without power: its server is out of service after {time.monotonic() - started:.1f} s")
        body = {"model": "chat", "prompt": "hello", "stream": False, "options": {"num_predict": 2}}
        time.sleep(2)
        answers = [httpx.post(f"{url}/api/generate", json=body, timeout=10).status_code for _ in range(20)]
        assert answers == [200] * 20
        fleet.wait_ready("chat", namespace, seconds=120)
        print(f"node without power: all servers are ready after {time.monotonic() - started:.1f} s")
        assert {pod["spec"]["nodeName"] for pod in fleet.pods(namespace)} == {alive.name}
    finally:
        nodes.up(fleet.plane, count=2)
    fleet.wait(
        "nothing of the lost server is left",
        lambda: len(fleet.get_all("pod", namespace)) == 2,
        seconds=60,
    )
    fleet.wait_ready("chat", namespace)
