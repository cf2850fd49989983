"""What the operator does to the API server: only what it was given the right to, and nothing when nothing changes."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import AGENT_NAMESPACE, OPERATOR_NAMESPACE, Fleet, deployment, model_set

pytestmark = pytest.mark.e2e

USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:ollama-fleet"
AGENT = f"system:serviceaccount:{AGENT_NAMESPACE}:ollama-fleet-agent"
FORBIDDEN = 403
# By verb, of each resource. Watches end after minutes and begin again, which is told twice; kopf has some of its own.
MOST_WHILE_IDLE = Counter({"watch": 4, "list": 2})

# Granted and not seen in these tests, with the reason.
AGENT_UNSEEN = {("list", "resourceslices"): "asked when a pod has a device by dynamic resource allocation"}
UNSEEN = {
    ("update", "ollamadeployments/finalizers"): "asked by OwnerReferencesPermissionEnforcement where it is on",
    ("patch", "events"): "written when an event repeats a minute later",
    ("delete", "pods"): "asked when a node does not take a server that may go nowhere else for two minutes",
}


def audit(fleet: Fleet, *, user: str = USER, since: float = 0.0) -> list[Any]:
    """Requests of a user in the API server's audit log, after a position in bytes."""
    with fleet.plane.audit_log.open() as handle:
        handle.seek(int(since))
        entries = [json.loads(line) for line in handle if line.endswith("\n")]
    return [entry for entry in entries if entry["user"]["username"] == user]


def what(entry: Any) -> tuple[str, str]:
    reference = entry.get("objectRef") or {"resource": entry["requestURI"]}
    sub = reference.get("subresource")
    return entry["verb"], reference["resource"] + (f"/{sub}" if sub else "")


def pod_of(entry: Any) -> str:
    """The pod that the token of a request is bound to."""
    (name,) = entry["user"]["extra"]["authentication.kubernetes.io/pod-name"]
    return str(name)


def code_of(entry: Any) -> int:
    return int(entry["responseStatus"].get("code", 0))


def used(entries: list[Any]) -> set[tuple[str, str]]:
    """None of which was refused."""
    refused = [
        what(entry)
        for entry in entries
        if code_of(entry) == FORBIDDEN and "being terminated" not in entry["responseStatus"].get("message", "")
    ]
    assert refused == []
    # A server-side apply of something new is a patch that needs the right to create.
    found = {what(entry) for entry in entries if "objectRef" in entry}
    return found | {("create", resource) for verb, resource in found if verb == "patch" and "/" not in resource}


def granted(*roles: Any) -> set[tuple[str, str]]:
    return {
        (verb, resource)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_a_converged_fleet_makes_no_requests_besides_the_lease(fleet: Fleet, namespace: str) -> None:
    fleet.apply(model_set(fleet, namespace, {"name": "chat", "contextLength": 2048}), deployment(namespace))
    fleet.wait_ready("chat", namespace)
    time.sleep(5)
    # Other tests' namespaces are still being deleted.
    found = json.loads(fleet.run("get", "namespaces", "-o", "json"))["items"]
    leaving = {one["metadata"]["name"] for one in found if "deletionTimestamp" in one["metadata"]}
    start = fleet.plane.audit_log.stat().st_size
    time.sleep(30)
    mine = [e for e in audit(fleet, since=start) if e.get("objectRef", {}).get("namespace") not in leaving]
    seen = Counter(what(entry) for entry in mine)
    print(f"30 idle seconds: {dict(seen)}")
    assert {key: count for key, count in seen.items() if key[1] != "leases" and count > MOST_WHILE_IDLE[key[0]]} == {}


def test_the_cost_of_create_and_change_in_requests(fleet: Fleet, namespace: str) -> None:
    start = fleet.plane.audit_log.stat().st_size
    fleet.apply(model_set(fleet, namespace, {"name": "chat", "contextLength": 2048}), deployment(namespace))
    fleet.wait_ready("chat", namespace)
    mine = [e for e in audit(fleet, since=start) if e["objectRef"].get("namespace") == namespace]
    created = Counter(what(entry) for entry in mine)
    print(f"create: {dict(created)}")
    # Five children are looked for once (a name could be taken) and applied once.
    for resource in ("configmaps", "services", "poddisruptionbudgets", "networkpolicies", "deployments"):
        assert created["get", resource] == 1
        assert created["patch", resource] == 1
    assert created["patch", "modelsets/status"] <= 2
    assert created["patch", "ollamadeployments/status"] <= 12

    start = fleet.plane.audit_log.stat().st_size
    fleet.patch("od", "chat", namespace, {"spec": {"replicas": 2}})
    fleet.wait_ready("chat", namespace)
    changed = Counter(what(e) for e in audit(fleet, since=start) if e["objectRef"].get("namespace") == namespace)
    print(f"scale to 2: {dict(changed)}")
    assert changed["patch", "deployments"] == 1
    assert not [key for key in changed if key[0] == "get"]
    assert not {key[1] for key in changed if key[0] == "patch"} & {"configmaps", "services", "networkpolicies"}


def test_the_rights_are_those_that_are_used(fleet: Fleet, namespace: str, tmp_path: Path) -> None:
    """Caches on a node and on a claim, two groups, a changed list of models, and one group less."""
    absent = {"cache": {"type": "Claim", "claimName": "absent"}}
    fleet.apply(deployment(namespace, name="other", storage=absent))
    fleet.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    chat = {"name": "chat", "contextLength": 2048}
    second = {"name": "second", "model": "chat", "contextLength": 1024}
    storage = {"cache": {"type": "Node", "path": str(tmp_path)}}
    fleet.apply(model_set(fleet, namespace, chat, second), deployment(namespace, storage=storage))
    fleet.wait_ready("chat", namespace, seconds=120)
    assert len(fleet.get("od", "chat", namespace)["status"]["groups"]) == 2
    fleet.apply(model_set(fleet, namespace, {**chat, "modelfile": {"system": "Be brief."}}))
    fleet.wait("the second group is gone", lambda: not fleet.pods_of(namespace, "g1"), seconds=60)
    fleet.wait_ready("chat", namespace)
    lease = fleet.get("role", "ollama-fleet-lease", OPERATOR_NAMESPACE)
    rights = granted(fleet.get("clusterrole", "ollama-fleet"), lease)
    assert rights - used(audit(fleet)) - UNSEEN.keys() == set()


def test_the_rights_of_agents_are_those_that_are_used(fleet: Fleet) -> None:
    """Those that ran since the cluster is there; one of another preset lost its rights a moment before it ended."""
    rights = granted(fleet.get("clusterrole", "ollama-fleet-agent"))
    running = {pod["metadata"]["name"] for pod in fleet.pods(AGENT_NAMESPACE)}
    entries = audit(fleet, user=AGENT)
    assert {pod_of(entry) for entry in entries} >= running
    counted = [entry for entry in entries if pod_of(entry) in running or code_of(entry) != FORBIDDEN]
    assert rights - used(counted) == AGENT_UNSEEN.keys()


def test_the_operator_runs_under_restricted_pod_security(fleet: Fleet) -> None:
    answer = fleet.run(
        *("label", "namespace", OPERATOR_NAMESPACE, "--dry-run=server", "--overwrite"),
        "pod-security.kubernetes.io/enforce=restricted",
    )
    assert "Warning" not in answer
