"""When an old server may make room for a new one, and when it must not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ollama_fleet.controllers import room

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FULL = (
    "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found."
)


def pod(*, cpu: str = "1", gpu: str = "", node: str = "", message: str = "", waited: float = 60) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": gpu} if gpu else {}
    status: dict[str, Any] = {}
    if message:
        since = (NOW - timedelta(seconds=waited)).strftime("%Y-%m-%dT%H:%M:%SZ")
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        status = {"conditions": [{**scheduled, "lastTransitionTime": since}]}
    spec: dict[str, Any] = {
        "containers": [{"name": "ollama", "resources": {"requests": {"cpu": cpu}, "limits": limits}}],
        "initContainers": [
            {"name": "puller", "resources": {"requests": {"cpu": "9"}}},
            {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
        ],
    }
    return {"metadata": {}, "spec": {**spec, **({"nodeName": node} if node else {})}, "status": status}


def lacking(*pods: dict[str, Any]) -> bool:
    return room.lacking(pods, now=NOW)


def test_a_new_server_that_would_fit_in_the_place_of_an_old_one_lacks_room() -> None:
    assert lacking(pod(node="one"), pod(message=FULL))
    assert lacking(
        pod(node="one", gpu="1"), pod(gpu="1", message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    )


@pytest.mark.parametrize(
    "new",
    [
        pod(cpu="64", message=FULL),
        pod(gpu="1", message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        pod(message="0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        pod(message="0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)."),
        pod(message=FULL, waited=9),
        pod(),
    ],
    ids=["larger than before", "a GPU that no old one has", "no node matches", "tainted", "just now", "not waiting"],
)
def test_no_old_server_goes_for_one_that_would_not_come(new: dict[str, Any]) -> None:
    assert not lacking(pod(node="one"), new)


def test_the_last_server_is_not_taken_from_nobody() -> None:
    assert not lacking(pod(message=FULL))


def test_a_pod_asks_for_its_containers_and_native_sidecars() -> None:
    assert {name: str(amount) for name, amount in room.requests(pod(gpu="2")).items()} == {
        "cpu": "1.050",
        "nvidia.com/gpu": "2",
    }
