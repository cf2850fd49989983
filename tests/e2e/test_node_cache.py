"""Servers whose models live in a directory of the node, filled before a server is placed there."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Fleet, deployment, model_set

pytestmark = pytest.mark.e2e

CHAT = {"name": "chat", "contextLength": 2048}


@pytest.fixture
def open_namespace(fleet: Fleet, namespace: str) -> str:
    """A namespace that allows directories of the node."""
    fleet.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    return namespace


@pytest.fixture
def storage(tmp_path: Path) -> dict[str, Any]:
    return {"cache": {"type": "Node", "path": str(tmp_path)}}


def jobs(fleet: Fleet, namespace: str) -> list[Any]:
    found: list[Any] = fleet.get_all("job", namespace)
    return found


def test_the_cache_is_filled_before_the_pod_is_placed(
    fleet: Fleet, open_namespace: str, storage: dict[str, Any], tmp_path: Path
) -> None:
    fleet.apply(model_set(fleet, open_namespace, CHAT), deployment(open_namespace, storage=storage))
    print(f"node cache: ready after {fleet.wait_ready('chat', open_namespace, seconds=120):.1f} s")
    (job,) = jobs(fleet, open_namespace)
    (pod,) = fleet.pods_of(open_namespace, "g0")
    assert job["metadata"]["annotations"]["ollamafleet.io/node"] == pod["spec"]["nodeName"]
    scheduled = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    assert scheduled["lastTransitionTime"] >= job["status"]["completionTime"]
    # Both nodes of the test bed share this machine's disk; each namespace has a directory of its own.
    blobs = list((tmp_path / open_namespace).glob("sha256-*"))
    assert len(blobs) >= 4
    # A Job's pod is never an endpoint.
    slices = fleet.get_all("endpointslice", open_namespace)
    addresses = [address for one in slices for entry in one["endpoints"] or () for address in entry["addresses"]]
    assert addresses == [pod["status"]["podIP"]]


def test_a_new_model_fills_the_cache_and_restarts_nothing(
    fleet: Fleet, open_namespace: str, storage: dict[str, Any]
) -> None:
    fleet.apply(model_set(fleet, open_namespace, CHAT), deployment(open_namespace, storage=storage))
    fleet.wait_ready("chat", open_namespace, seconds=120)
    (before,) = fleet.pods_of(open_namespace, "g0")
    fleet.apply(model_set(fleet, open_namespace, CHAT, {"name": "other", "model": "qwen", "contextLength": 512}))
    fleet.wait(
        "both models are warm",
        lambda: fleet.get("od", "chat", open_namespace)["status"]["warm"] == "2/2",
        seconds=120,
    )
    fleet.wait_ready("chat", open_namespace)
    (after,) = fleet.pods_of(open_namespace, "g0")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [entry["restartCount"] for entry in after["status"]["containerStatuses"]] == [0]


def test_a_restricted_namespace_is_told_which_label_to_set(
    fleet: Fleet, namespace: str, storage: dict[str, Any]
) -> None:
    fleet.apply(model_set(fleet, namespace, CHAT), deployment(namespace, storage=storage))
    message = fleet.wait_reason("od", "chat", namespace, "PodSecurityForbidden")["message"]
    assert "pod-security.kubernetes.io/enforce" in message
    assert "hostPath" in message
