"""The Job that fills a cache: a node's before a server is placed there, or a claim for all servers that read it."""

import hashlib
from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.ollamadeployment import EPHEMERAL
from ollama_fleet.manifests.names import Owner, child_name, metadata, selector
from ollama_fleet.manifests.pod import USER, node_affinity
from ollama_fleet.manifests.storage import config_mount, secret_mounts, shares_claim, store_mounts, volumes
from ollama_fleet.planning.plan import Group

LABEL_PULLS_FOR: Final = f"{names.GROUP}/pulls-for"
"""The group whose models a Job pulls. Not the group's own label: a Service must not find the Job's pods."""
ANNOTATION_NODE: Final = f"{names.GROUP}/node"

_FINAL_EXIT_CODES: Final = [10, 11, 12, 13]
"""Of the puller: somebody must change something before another try makes sense."""
_ATTEMPTS: Final = 6
_LIMIT_SECONDS: Final = 24 * 3600


def job_name(group: Group, *, owner: Owner, node: str | None, claim: str) -> str:
    """The name of the Job that fills the group's cache: a hash of content and place, done once it is never done again.

    ``claim`` is the uid of the claim: another one of its name is empty.
    """
    cache = group.storage.cache or EPHEMERAL
    place = f"{node}{cache.path or ''}" if cache.type == "Node" else claim
    key = hashlib.sha256(f"{place}/{_content(group)}".encode()).hexdigest()[:10]
    return f"{child_name(owner, group.name)}-pull-{key}"


def _content(group: Group) -> str:
    """What the group's cache must hold; a claim also what servers with a cache of their own write themselves."""
    return group.config.content(derived=shares_claim(group))


def prepull_job(group: Group, *, owner: Owner, node: str | None, claim: str = "") -> dict[str, Any]:
    """The Job for one node, or for the claim (``node`` None) with the uid ``claim``."""
    found = metadata(owner, group.name, annotations={ANNOTATION_NODE: node} if node else None)
    labels = {key: value for key, value in found["labels"].items() if key != names.LABEL_GROUP}
    labels |= {names.LABEL_COMPONENT: "puller", LABEL_PULLS_FOR: group.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**found, "name": job_name(group, owner=owner, node=node, claim=claim), "labels": labels},
        "spec": {
            "backoffLimit": _ATTEMPTS,
            "activeDeadlineSeconds": _LIMIT_SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": names.CONTAINER_PULLER,
                            "operator": "In",
                            "values": _FINAL_EXIT_CODES,
                        },
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": _pod(group, owner=owner, node=node)},
        },
    }


def _pod(group: Group, *, owner: Owner, node: str | None) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **(_on_node(node) if node else _beside_servers(group, owner=owner)),
        "containers": [
            {
                "name": names.CONTAINER_PULLER,
                "image": group.fleet_image,
                "args": ["puller", "--mode=job", f"--content={_content(group)}"],
                "ports": [{"name": "progress", "containerPort": names.PORT_PROGRESS}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    *store_mounts(),
                    config_mount(),
                    *secret_mounts(group),
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod
                ],
            }
        ],
        "volumes": [
            volume
            for volume in volumes(group, name=child_name(owner, group.name), namespace=owner.namespace)
            if volume["name"] != "home"
        ],
    }
    if group.placement.tolerations:
        spec["tolerations"] = group.placement.tolerations
    return spec


def _on_node(node: str) -> dict[str, Any]:
    return {
        "affinity": {"nodeAffinity": pin(node)},
        # The kubelet makes the directory for root. As root of the servers' group, without any capability, the puller
        # may hand it to that group; servers then write as themselves.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _beside_servers(group: Group, *, owner: Owner) -> dict[str, Any]:
    """Where servers may go: the first pod that uses a claim may decide for good on which nodes the volume can be."""
    term = {"labelSelector": {"matchLabels": selector(owner, group.name)}, "topologyKey": "kubernetes.io/hostname"}
    near = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    placement = group.placement
    spec: dict[str, Any] = {
        "affinity": {**node_affinity(group), "podAffinity": near},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {**spec, "nodeSelector": placement.node_selector} if placement.node_selector else spec


def pin(node: str) -> dict[str, Any]:
    """Required node affinity to one node by its name."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}}
