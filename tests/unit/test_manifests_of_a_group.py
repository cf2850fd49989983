"""The Kubernetes objects of a group: valid, restricted, stable."""

import json
from typing import Any

import kubernetes.client
import pytest

from ollama_fleet.api import names
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.render import render
from ollama_fleet.manifests.rollout import HASH_VERSION
from ollama_fleet.planning.planner import plan_deployment
from tests.support.plans import CPU, GPU, request, view

OWNER = Owner(namespace="ns", name="chat", uid="u")
MODELS = {
    "ConfigMap": kubernetes.client.V1ConfigMap,
    "Service": kubernetes.client.V1Service,
    "PodDisruptionBudget": kubernetes.client.V1PodDisruptionBudget,
    "NetworkPolicy": kubernetes.client.V1NetworkPolicy,
    "Deployment": kubernetes.client.V1Deployment,
}


def objects(*, live: Any = None, models: Any = ({"name": "a"},), **spec: Any) -> dict[str, Any]:
    plan = plan_deployment(request(view(*models), **spec))
    assert plan.problems == ()
    return {wish["kind"]: wish for wish in render(plan.groups[0], owner=OWNER, live=live)}


def pod(**spec: Any) -> Any:
    return objects(**spec)["Deployment"]["spec"]["template"]["spec"]


def template_hash(**spec: Any) -> str:
    found: str = objects(**spec)["Deployment"]["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH]
    return found


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
def test_every_object_is_what_its_kind_allows(hardware: Any) -> None:
    found = objects(hardware=hardware)
    assert found.keys() == MODELS.keys()
    for kind, wish in found.items():
        MODELS[kind].model_validate(wish)
        assert wish["metadata"]["name"] == "chat-g0"
        (owner,) = wish["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == ("u", True)


def test_the_same_wish_renders_the_same_objects() -> None:
    assert json.dumps(objects(), sort_keys=True) == json.dumps(objects(), sort_keys=True)


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_pod_passes_restricted_pod_security(hardware: Any) -> None:
    spec = pod(hardware=hardware)
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for container in (*spec["initContainers"], *spec["containers"]):
        inner = container["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False, container["name"]
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert all("hostPort" not in port for port in container.get("ports", ()))
    allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])


def test_only_the_puller_sees_secrets() -> None:
    ours = view({"name": "a"})
    source = {"registry": "registry.test", "pullSecretRef": {"name": "login"}, "caSecretRef": {"name": "authority"}}
    spec = ours.spec.model_copy(
        update={"source": type(ours.spec).model_validate({"models": [{"name": "a"}], "source": source}).source}
    )
    changed = type(ours)(ours.name, spec, ours.status, ours.generation)
    (group,) = plan_deployment(request(changed)).groups
    template = {w["kind"]: w for w in render(group, owner=OWNER, live=None)}["Deployment"]["spec"]["template"]["spec"]
    seen = {
        container["name"]: [m["mountPath"] for m in container["volumeMounts"] if "secret" in m["mountPath"]]
        for container in (*template["initContainers"], *template["containers"])
    }
    assert seen == {
        "puller": [f"{names.PATH_PULL_SECRETS}/login", f"{names.PATH_CA_SECRETS}/authority"],
        "sidecar": [],
        "ollama": [],
    }


def test_ollama_is_reached_through_the_sidecar_only() -> None:
    spec = pod()
    puller, sidecar = spec["initContainers"]
    (ollama,) = spec["containers"]
    assert puller["name"] == "puller"
    assert sidecar["restartPolicy"] == "Always"
    assert "ports" not in ollama
    probes = [ollama[kind]["httpGet"]["port"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert probes == [names.PORT_ADMIN] * 3
    assert ollama["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain", "port": names.PORT_ADMIN}
    assert all(mount["readOnly"] for mount in ollama["volumeMounts"] if mount["name"] in {"models", "blobs"})
    assert spec["automountServiceAccountToken"] is False


def test_the_grace_period_outlives_the_drain() -> None:
    config = json.loads(objects()["ConfigMap"]["data"]["group.json"])
    assert pod()["terminationGracePeriodSeconds"] == config["drainSeconds"] + 30


def test_gates() -> None:
    assert pod()["readinessGates"] == [{"conditionType": names.READINESS_GATE}]
    assert "readinessGates" not in pod(readiness={"policy": "None"})
    assert "schedulingGates" not in pod()
    assert pod(storage={"cache": {"type": "Node"}})["schedulingGates"] == [{"name": names.SCHEDULING_GATE}]


def test_gpus_are_asked_for_by_count_product_and_memory() -> None:
    gpu = {"gpu": {"count": 2, "products": ["NVIDIA-L4"], "minMemory": "24Gi"}}
    spec = pod(hardware=gpu)
    resources = spec["containers"][0]["resources"]
    assert resources["limits"].keys() == {"nvidia.com/gpu", "memory"}
    assert resources["limits"]["nvidia.com/gpu"] == "2"
    assert resources["requests"].keys() == {"memory"}
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    product, memory = term["matchExpressions"]
    assert product == {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}
    # A 24 GB card reports 23,034 MiB.
    assert memory["operator"] == "Gt"
    assert 20_000 < int(memory["values"][0]) < 23_034


def test_a_users_affinity_keeps_its_alternatives() -> None:
    terms = [{"matchExpressions": [{"key": zone, "operator": "Exists"}]} for zone in ("one", "two")]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    hardware = {"gpu": {"count": 1, "products": ["X"]}}
    found = pod(hardware=hardware, placement={"affinity": affinity})["affinity"]["nodeAffinity"]
    merged = found["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [[e["key"] for e in term["matchExpressions"]] for term in merged] == [
        ["one", "nvidia.com/gpu.product"],
        ["two", "nvidia.com/gpu.product"],
    ]


RESTARTS: dict[str, dict[str, Any]] = {
    "version": {"version": "0.31.0"},
    "image": {"image": "own@sha256:" + "a" * 64},
    "cpu": {"hardware": {"cpu": {"cores": "2", "memory": "1Gi"}}},
    "parallel": {"tuning": {"numParallel": 9}},
    "extraEnv": {"tuning": {"extraEnv": [{"name": "OLLAMA_DEBUG", "value": "1"}]}},
    "cache": {"storage": {"cache": {"type": "Ephemeral", "sizeLimit": "9Gi"}}},
    "readiness policy": {"readiness": {"policy": "None"}},
    "node selector": {"placement": {"nodeSelector": {"a": "b"}}},
    "pinned model": {"models": ({"name": "a"}, {"name": "b"})},
}
STAYS: dict[str, dict[str, Any]] = {
    "replicas": {"replicas": 5},
    "suspend": {"suspend": True},
    "load timeout": {"readiness": {"timeout": "20m"}},
    "system prompt": {"models": ({"name": "a", "modelfile": {"system": "be brief"}},)},
    "priority": {"models": ({"name": "a", "priority": 9},)},
    "context": {"models": ({"name": "a", "contextLength": 64},)},
    "operator upgrade": {"fleet_image": "fleet:2"},
    "digest that becomes known": {"digests": {"0.32.3": "sha256:" + "d" * 64}},
}


@pytest.mark.parametrize("change", RESTARTS.values(), ids=RESTARTS.keys())
def test_these_changes_restart_pods(change: dict[str, Any]) -> None:
    assert template_hash(**change) != template_hash()


@pytest.mark.parametrize("change", STAYS.values(), ids=STAYS.keys())
def test_these_changes_restart_nothing(change: dict[str, Any]) -> None:
    before = objects()["Deployment"]
    after = objects(live=before, **change)["Deployment"]
    assert after["spec"]["template"] == before["spec"]["template"]


def test_a_new_pinned_model_restarts_nothing_where_the_cache_is_shared() -> None:
    storage = {"cache": {"type": "Node"}}
    before = objects(storage=storage)["Deployment"]
    models = ({"name": "a"}, {"name": "b"})
    after = objects(live=before, models=models, storage=storage)["Deployment"]
    assert after["spec"]["template"] == before["spec"]["template"]


def test_a_hash_of_another_form_keeps_the_template_and_is_stamped_anew() -> None:
    before = objects()["Deployment"]
    before["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH] = f"v{HASH_VERSION + 1}-0"
    after = objects(live=before, version="0.31.0")["Deployment"]
    assert after["spec"]["template"] == before["spec"]["template"]
    assert after["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH].startswith(f"v{HASH_VERSION}-")
