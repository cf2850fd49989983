"""Servers whose models live on a PersistentVolumeClaim that one Job fills."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Fleet, deployment, model_set

pytestmark = pytest.mark.e2e

CHAT = {"name": "chat", "contextLength": 2048}
STORAGE = {"cache": {"type": "Claim", "claimName": "models"}}


@pytest.fixture
def claim(fleet: Fleet, namespace: str, tmp_path: Path) -> list[dict[str, Any]]:
    """A claim that only one node can use, bound to a directory of that node."""
    resources = {"requests": {"storage": "1Gi"}}
    names = {"key": "kubernetes.io/hostname", "operator": "In", "values": [fleet.made[0].name]}
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "local": {"path": str(tmp_path)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [names]}]}},
        "claimRef": {"namespace": namespace, "name": "models"},
    }
    wish = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": namespace, "resources": resources}
    about = {"name": "models", "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": wish},
    ]


def test_one_job_fills_the_claim_and_servers_read_it(
    fleet: Fleet, namespace: str, claim: list[dict[str, Any]], tmp_path: Path
) -> None:
    fleet.apply(model_set(fleet, namespace, CHAT), deployment(namespace, storage=STORAGE))
    message = fleet.wait_reason("od", "chat", namespace, "ClaimMissing")["message"]
    assert "PersistentVolumeClaim models does not exist" in message
    fleet.apply(*claim)
    print(f"claim: ready after {fleet.wait_ready('chat', namespace, seconds=120):.1f} s")
    (job,) = fleet.get_all("job", namespace)
    assert job["status"]["succeeded"] == 1
    assert len(list(tmp_path.glob("sha256-*"))) >= 4
    (before,) = fleet.pods_of(namespace, "g0")

    fleet.apply(model_set(fleet, namespace, CHAT, {"name": "other", "model": "qwen", "contextLength": 512}))
    fleet.wait(
        "both models are warm",
        lambda: fleet.get("od", "chat", namespace)["status"]["warm"] == "2/2",
        seconds=120,
    )
    fleet.wait_ready("chat", namespace)
    (after,) = fleet.pods_of(namespace, "g0")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    (job,) = fleet.get_all("job", namespace)

    # Only the Job can add the layer that says so.
    fleet.apply(model_set(fleet, namespace, {**CHAT, "contextLength": 1024}))
    fleet.wait(
        "another Job has run",
        lambda: (
            [
                found["status"].get("succeeded")
                for found in fleet.get_all("job", namespace)
                if found["metadata"]["name"] != job["metadata"]["name"]
            ]
            == [1]
        ),
        seconds=120,
    )
    fleet.wait_ready("chat", namespace, seconds=120)
    (after,) = fleet.pods_of(namespace, "g0")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]

    fleet.patch("od", "chat", namespace, {"spec": {"replicas": 2}})
    refused = fleet.wait_reason("od", "chat", namespace, "InvalidSpec")
    assert "spec.replicas: 1" in refused["message"]
    assert [pod["metadata"]["uid"] for pod in fleet.pods_of(namespace, "g0")] == [after["metadata"]["uid"]]

    # Another environment replaces the server: the old one leaves the claim first.
    fleet.patch("od", "chat", namespace, {"spec": {"replicas": 1, "tuning": {"keepAlive": "7m"}}})
    fleet.wait_ready("chat", namespace, seconds=120)
    (replaced,) = fleet.pods_of(namespace, "g0")
    assert replaced["metadata"]["uid"] != before["metadata"]["uid"]
