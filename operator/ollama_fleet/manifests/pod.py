"""The pod template of a group."""

from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.ollamadeployment import EPHEMERAL, GPUSpec
from ollama_fleet.manifests import containers
from ollama_fleet.manifests.names import Owner, child_name, labels, selector
from ollama_fleet.manifests.storage import volumes
from ollama_fleet.planning.inventory import GPU_RESOURCE, least_memory, memory_label, product_label, product_values
from ollama_fleet.planning.plan import Group

USER: Final = 65532
"""The unprivileged user of all containers; its group owns the volumes."""

_GRACE_SECONDS: Final = 30
"""Left after the drain for the containers to stop."""


def template(group: Group, *, owner: Owner) -> dict[str, Any]:
    """The pod template, complete but for the annotation of its own hash."""
    return {
        "metadata": {
            "labels": labels(owner, group.name),
            "annotations": {
                names.ANNOTATION_CONFIG_HASH: group.config.hash(),
                "kubectl.kubernetes.io/default-container": names.CONTAINER_OLLAMA,
            },
        },
        "spec": _spec(group, owner),
    }


def _spec(group: Group, owner: Owner) -> dict[str, Any]:
    placement = group.placement
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": group.config.drain_seconds + _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Model files are large and many: a recursive change of owner at each start takes minutes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [containers.puller(group), containers.sidecar(group)],
        "containers": [containers.ollama(group)],
        "volumes": volumes(group, name=child_name(owner, group.name), namespace=owner.namespace),
        "topologySpreadConstraints": placement.topology_spread or [_spread(owner, group.name)],
    }
    if group.readiness_policy != "None":
        spec["readinessGates"] = [{"conditionType": names.READINESS_GATE}]
    if (group.storage.cache or EPHEMERAL).type == "Node":
        spec["schedulingGates"] = [{"name": names.SCHEDULING_GATE}]
    optional = {
        "nodeSelector": placement.node_selector,
        "tolerations": placement.tolerations,
        "affinity": _affinity(group),
        "priorityClassName": placement.priority_class_name,
        "runtimeClassName": placement.runtime_class_name,
    }
    return spec | {key: value for key, value in optional.items() if value}


def _spread(owner: Owner, group: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(owner, group)},
    }


def _affinity(group: Group) -> dict[str, Any]:
    """The user's affinity, with the GPU's demands added to every one of its alternatives."""
    return {**(group.placement.affinity or {}), **node_affinity(group)}


def node_affinity(group: Group) -> dict[str, Any]:
    """The part of the affinity that names nodes; empty where any will do."""
    wish: dict[str, Any] = group.placement.affinity or {}
    node = dict(wish.get("nodeAffinity", {}))
    demands = _gpu_demands(group.hardware.gpu) if group.hardware.gpu else []
    if not demands:
        return {"nodeAffinity": node} if node else {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*term.get("matchExpressions", []), *demands]} for term in terms
        ]
    }
    return {"nodeAffinity": node}


def _gpu_demands(gpu: GPUSpec) -> list[dict[str, Any]]:
    resource, least = gpu.resource_name or GPU_RESOURCE, least_memory(gpu)
    demands: list[dict[str, Any]] = []
    if gpu.products:
        demands.append({"key": product_label(resource), "operator": "In", "values": product_values(gpu)})
    if least:
        demands.append({"key": memory_label(resource), "operator": "Gt", "values": [str(least - 1)]})
    return demands
