"""The baseline of the operator benchmark: the same work in the way kopf's documentation shows it.

``on.create``, ``on.update`` and ``on.resume`` handlers make the children through the official client, an ``on.event``
handler opens the readiness gates of pods whose containers are ready, and an ``on.field`` handler follows the
Deployment's ready replicas into the status.
"""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import kopf
from kubernetes import client, config

from ollama_fleet.api import names
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.render import render
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest

_DIGEST = "sha256:" + "a" * 64


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """The peering object is not there; everything else is kopf's default."""
    settings.peering.standalone = True
    config.load_kube_config()  # type: ignore[no-untyped-call]


@kopf.on.create(names.GROUP, names.VERSION, "ollamadeployments")
@kopf.on.update(names.GROUP, names.VERSION, "ollamadeployments")
@kopf.on.resume(names.GROUP, names.VERSION, "ollamadeployments")
async def apply(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
    """Make or change the children."""
    await asyncio.to_thread(_apply, dict(body))
    patch.status["observedGeneration"] = body["metadata"]["generation"]


@kopf.on.event("pods", labels={names.LABEL_MANAGED_BY: names.MANAGED_BY})
async def gate(body: kopf.Body, **_: Any) -> None:
    """Open the gate of a pod whose containers are ready."""
    conditions = {entry["type"]: entry["status"] for entry in body.get("status", {}).get("conditions", ())}
    if conditions.get("ContainersReady") == "True" and conditions.get(names.READINESS_GATE) != "True":
        await asyncio.to_thread(_open, body["metadata"]["namespace"], body["metadata"]["name"])


@kopf.on.field(
    "apps", "v1", "deployments", field="status.readyReplicas", labels={names.LABEL_MANAGED_BY: names.MANAGED_BY}
)
async def ready(body: kopf.Body, new: Any, **_: Any) -> None:
    """Tell the owner."""
    if new == body["spec"]["replicas"]:
        owner = body["metadata"]["labels"][names.LABEL_DEPLOYMENT]
        await asyncio.to_thread(_tell, body["metadata"]["namespace"], owner)


def children(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What an OllamaDeployment is made of, by the product's own planner and renderer."""
    metadata = body["metadata"]
    model = ResolvedModel(name="chat", reference="r/library/chat:latest", digest=_DIGEST, size=1, ready=True)
    view = ModelSetView(
        "chat",
        ModelSetSpec.model_validate({"models": [{"name": "chat"}]}),
        ModelSetStatus(observed_generation=0, models=[model]),
    )
    plan = plan_deployment(
        PlanRequest(
            namespace=metadata["namespace"],
            name=metadata["name"],
            spec=OllamaDeploymentSpec.model_validate(body["spec"]),
            model_sets={"models": view},
            policy=ImagePolicy(fleet_image="fleet:1"),
        )
    )
    for group in plan.groups:
        yield from render(group, owner=Owner.of(body), live=None)


def _apply(body: Mapping[str, Any]) -> None:
    dynamic = client.ApiClient()
    for wish in children(body):
        _create_or_patch(dynamic, wish)


def _create_or_patch(api: client.ApiClient, wish: Mapping[str, Any]) -> None:
    namespace, name = wish["metadata"]["namespace"], wish["metadata"]["name"]
    makers = {
        "ConfigMap": (client.CoreV1Api(api), "config_map"),
        "Service": (client.CoreV1Api(api), "service"),
        "PodDisruptionBudget": (client.PolicyV1Api(api), "pod_disruption_budget"),
        "NetworkPolicy": (client.NetworkingV1Api(api), "network_policy"),
        "Deployment": (client.AppsV1Api(api), "deployment"),
    }
    group, kind = makers[wish["kind"]]
    try:
        getattr(group, f"create_namespaced_{kind}")(namespace=namespace, body=wish)
    except client.ApiException as error:
        if error.status != 409:
            raise
        getattr(group, f"patch_namespaced_{kind}")(name=name, namespace=namespace, body=wish)


def _open(namespace: str, name: str) -> None:
    condition = {
        "type": names.READINESS_GATE,
        "status": "True",
        "reason": "Resident",
        "message": "",
        "lastTransitionTime": _now(),
    }
    client.CoreV1Api().patch_namespaced_pod_status(
        name=name, namespace=namespace, body={"status": {"conditions": [condition]}}
    )


def _tell(namespace: str, name: str) -> None:
    conditions = [
        {"type": kind, "status": status, "reason": "AllWarm", "message": "", "lastTransitionTime": _now()}
        for kind, status in (("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False"))
    ]
    client.CustomObjectsApi().patch_namespaced_custom_object_status(
        group=names.GROUP,
        version=names.VERSION,
        namespace=namespace,
        plural="ollamadeployments",
        name=name,
        body={"status": {"conditions": conditions}},
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
