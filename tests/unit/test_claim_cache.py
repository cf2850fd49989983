"""A cache on a PersistentVolumeClaim: one Job writes, servers only read, and claims that cannot do that are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest

from ollama_fleet.api.reasons import Reason
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.prepull import prepull_job
from ollama_fleet.manifests.render import render
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ClaimView
from ollama_fleet.store import main
from tests.support.plans import GPU, request, view

OWNER = Owner(namespace="ns", name="chat", uid="u")
STORAGE = {"cache": {"type": "Claim", "claimName": "models"}}
TWINS = (  # the same weights with other load options never share a server
    {"name": "a", "model": "same", "contextLength": 2048},
    {"name": "b", "model": "same", "contextLength": 4096},
)


def plan(*modes: str, models: Any = ({"name": "a"},), storage: Any = STORAGE, **spec: Any) -> Plan:
    wish = request(view(*models), storage=storage, **spec)
    return plan_deployment(replace(wish, claim=ClaimView(frozenset(modes)) if modes else None))


def test_a_missing_claim_is_named_with_the_field() -> None:
    (problem,) = plan().problems
    assert problem.reason is Reason.CLAIM_MISSING
    assert "PersistentVolumeClaim models does not exist in namespace" in problem.message
    assert "spec.storage.cache.claimName" in problem.message


@pytest.mark.parametrize("mode", ["ReadOnlyMany", "ReadWriteOncePod"])
def test_a_claim_that_a_job_cannot_fill_beside_a_server_is_refused(mode: str) -> None:
    (problem,) = plan(mode).problems
    assert problem.reason is Reason.INVALID_SPEC
    assert mode in problem.message


@pytest.mark.parametrize(("models", "replicas"), [(({"name": "a"},), 2), (TWINS, 1)], ids=["replicas", "groups"])
def test_a_claim_of_one_node_serves_one_server(models: Any, replicas: int) -> None:
    (problem,) = plan("ReadWriteOnce", models=models, replicas=replicas).problems
    assert "spec.replicas: 1" in problem.message
    assert plan("ReadWriteMany", models=models, replicas=replicas).problems == ()


@pytest.mark.parametrize(("mode", "surge", "unavailable"), [("ReadWriteOnce", 0, 1), ("ReadWriteMany", 1, 0)])
def test_a_new_server_starts_first_only_where_both_reach_the_claim(mode: str, surge: int, unavailable: int) -> None:
    (group,) = plan(mode).groups
    deployment = next(wish for wish in render(group, owner=OWNER, live=None) if wish["kind"] == "Deployment")
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    assert (rolling["maxSurge"], rolling["maxUnavailable"]) == (surge, unavailable)


def test_servers_only_read_the_claim() -> None:
    (group,) = plan("ReadWriteMany").groups
    deployment = next(wish for wish in render(group, owner=OWNER, live=None) if wish["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    puller = spec["initContainers"][0]
    assert puller["args"] == ["puller", "--mode=verify"]
    for container in (*spec["initContainers"], *spec["containers"]):
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "blobs"]
        assert mount["readOnly"] is True, container["name"]
    assert "schedulingGates" not in spec


def test_the_job_writes_it_without_privilege_where_servers_may_go() -> None:
    (group,) = plan("ReadWriteMany", hardware=GPU, placement={"nodeSelector": {"pool": "gpu"}}).groups
    job = prepull_job(group, owner=OWNER, node=None)
    kubernetes.client.V1Job.model_validate(job)
    spec = job["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["nodeSelector"] == {"pool": "gpu"}
    (container,) = spec["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "blobs"]
    assert "readOnly" not in mount
    deployment = next(wish for wish in render(group, owner=OWNER, live=None) if wish["kind"] == "Deployment")
    servers = deployment["spec"]["template"]["spec"].get("affinity", {})
    assert spec["affinity"].get("nodeAffinity") == servers.get("nodeAffinity")


def test_a_job_is_named_by_its_content_and_the_place_that_it_fills() -> None:
    (group,) = plan("ReadWriteMany").groups
    (other,) = plan("ReadWriteMany", models=({"name": "a"}, {"name": "b"})).groups

    def name(group: Group, claim: str) -> str:
        found: str = prepull_job(group, owner=OWNER, node=None, claim=claim)["metadata"]["name"]
        return found

    assert name(group, "1") == name(group, "1")
    assert len({name(group, "1"), name(group, "2"), name(other, "1")}) == 3
    on_nodes = (
        plan_deployment(request(view({"name": "a"}), storage={"cache": {"type": "Node", **path}}))
        for path in ({}, {"path": "/mnt"})
    )
    (default,), (elsewhere,) = (made.groups for made in on_nodes)
    jobs = [prepull_job(found, owner=OWNER, node=node) for found in (default, elsewhere) for node in ("n", "m")]
    assert len({job["metadata"]["name"] for job in jobs}) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"contextLength": 4096},
        {"modelfile": {"system": "be brief"}},
        {"modelfile": {"template": "{{ .Prompt }}"}},
        {"modelfile": {"parameters": {"temperature": 0.5}}},
    ],
    ids=lambda change: str(change.get("modelfile", change)),
)
def test_layers_that_no_registry_has_need_a_job_where_servers_only_read(tmp_path: Path, change: dict[str, Any]) -> None:
    for storage, again in ((STORAGE, True), ({"cache": {"type": "Node"}}, False)):
        (before,) = plan("ReadWriteMany", storage=storage).groups
        (after,) = plan("ReadWriteMany", storage=storage, models=({"name": "a", **change},)).groups
        jobs = [prepull_job(group, owner=OWNER, node=None) for group in (before, after)]
        assert (jobs[0]["metadata"]["name"] != jobs[1]["metadata"]["name"]) is again
        (mounted := tmp_path / "config").write_text(after.config.model_dump_json())
        (option,) = (arg for arg in _args(jobs[1]) if arg.startswith("--content="))
        assert main._read(mounted, content=option.partition("=")[2]) == after.config


def test_a_job_waits_for_the_configuration_that_it_is_to_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet may mount a ConfigMap as it was a moment ago."""
    (old,), (new,) = (plan("ReadWriteMany", models=models).groups for models in (({"name": "a"},), ({"name": "b"},)))
    (mounted := tmp_path / "config").write_text(old.config.model_dump_json())
    wanted, pauses = new.config.content(), list[float]()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            mounted.write_text(new.config.model_dump_json())

    monkeypatch.setattr(main.time, "sleep", pause)
    assert main._read(mounted, content=wanted) == new.config
    assert len(pauses) == 3
    assert main._read(mounted, content=old.config.content()) is None


def _args(job: dict[str, Any]) -> list[str]:
    found: list[str] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return found
