"""A group of the plan as Kubernetes objects."""

import json
from collections.abc import Mapping
from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.manifests.names import Owner, metadata, selector
from ollama_fleet.manifests.network import network_policy
from ollama_fleet.manifests.pod import template
from ollama_fleet.manifests.rollout import settle, template_hash
from ollama_fleet.manifests.storage import CONFIG_KEY
from ollama_fleet.planning.plan import Group

Object = dict[str, Any]

RECORD_KEY: Final = "record.json"
_REVISIONS: Final = 3
_ASSUMED_BYTES_PER_SECOND: Final = 20_000_000
"""A slow registry; only bounds how long a rollout may seem to stand still."""


def render(group: Group, *, owner: Owner, live: Mapping[str, Any] | None) -> tuple[Object, ...]:
    """All objects of a group, in the order in which they are applied. ``live`` is its Deployment, if there is one."""
    return (
        config_map(group, owner=owner),
        service(group, owner=owner),
        disruption_budget(group, owner=owner),
        network_policy(group, owner=owner),
        deployment(group, owner=owner, live=live),
    )


def config_map(group: Group, *, owner: Owner) -> Object:
    """The group configuration, read by puller and sidecar, and beside it what the next plan has to know of this one."""
    wire = json.dumps(group.config.to_wire(), sort_keys=True, indent=1)
    record = json.dumps(group.record.to_wire(), sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, group.name),
        "data": {CONFIG_KEY: wire, RECORD_KEY: record},
    }


def service(group: Group, *, owner: Owner) -> Object:
    """The stable address of a group's ready pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, group.name),
        "spec": {
            "selector": selector(owner, group.name),
            "ports": [{"name": "http", "port": names.PORT_DATA, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def disruption_budget(group: Group, *, owner: Owner) -> Object:
    """One pod at a time may be evicted; one that is not ready never blocks a drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, group.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(owner, group.name)},
        },
    }


def deployment(group: Group, *, owner: Owner, live: Mapping[str, Any] | None) -> Object:
    """The servers. The template that was rendered travels with the object, see ``rollout``."""
    wanted = template_hash(group)
    settled = settle(template(group, owner=owner), wanted=wanted, live=live)
    kept = json.dumps(settled, sort_keys=True, separators=(",", ":"))
    annotations = {names.ANNOTATION_TEMPLATE_HASH: wanted, names.ANNOTATION_TEMPLATE: kept}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, group.name, annotations=annotations),
        "spec": {
            "replicas": group.replicas,
            "revisionHistoryLimit": _REVISIONS,
            "progressDeadlineSeconds": _deadline(group),
            "selector": {"matchLabels": selector(owner, group.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": _rolling_update(group)},
            "template": settled,
        },
    }


def _rolling_update(group: Group) -> Object:
    """A new server becomes warm before an old one goes, where there is room for both."""
    return {"maxSurge": 1, "maxUnavailable": 0} if group.surge else {"maxSurge": 0, "maxUnavailable": 1}


def _deadline(group: Group) -> int:
    """Twice the time that pulling and loading may reasonably take, in seconds."""
    pull = sum(model.size for model in group.config.models) // _ASSUMED_BYTES_PER_SECOND
    return 2 * (pull + group.config.load_timeout_seconds * max(1, len(group.config.models)))
