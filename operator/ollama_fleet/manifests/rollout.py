"""What restarts pods, and what does not.

A pod template is rendered by this version of the operator; the next version may render it differently. Only a change
of what the user chose may restart servers, so the inputs of that choice are hashed, and while the hash stays the
template stays as it was first rendered.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupRecord, Started
from ollama_fleet.api.ollamadeployment import EPHEMERAL
from ollama_fleet.planning.plan import Group

HASH_VERSION: Final = 1
"""Raised when the inputs below change their form: a template of another version is kept and stamped anew."""


def template_hash(group: Group) -> str:
    """``v<version>-<hash>`` of everything whose change restarts the group's pods."""
    cache = group.storage.cache or EPHEMERAL
    inputs = {
        "image": group.image_choice,
        "environment": [(setting.name, setting.value) for setting in group.environment],
        "hardware": group.hardware.to_wire(),
        "placement": group.placement.to_wire(),
        "cache": cache.to_wire(),
        "readiness": group.readiness_policy,
        "drain": group.config.drain_seconds,
        "secrets": sorted({(m.pull_secret or "", m.ca_secret or "") for m in group.config.models}),
        # An emptyDir is filled by the init container only; other caches are filled beside running pods.
        "pinned": _pinned(group) if cache.type == "Ephemeral" else [],
        # Absent where earlier versions wrote none; the planner keeps what runs, so a computed figure rolls nothing.
        **({"memory": [group.memory.request, group.memory.limit]} if group.memory.request else {}),
    }
    wire = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return f"v{HASH_VERSION}-{hashlib.sha256(wire.encode()).hexdigest()[:16]}"


def settle(rendered: dict[str, Any], *, wanted: str, live: Mapping[str, Any] | None) -> dict[str, Any]:
    """The template to apply: what already runs while its hash is the wanted one, else what was rendered."""
    annotations = live["metadata"].get("annotations", {}) if live else {}
    known, kept = annotations.get(names.ANNOTATION_TEMPLATE_HASH, ""), annotations.get(names.ANNOTATION_TEMPLATE)
    if kept and (known == wanted or not known.startswith(f"v{HASH_VERSION}-")):
        found: dict[str, Any] = json.loads(kept)
        return found
    return rendered


def started(live: Mapping[str, Any]) -> GroupRecord:
    """What a Deployment of an operator that kept no records says of how its servers were started."""
    kept = live["metadata"].get("annotations", {}).get(names.ANNOTATION_TEMPLATE)
    values = environment_of(json.loads(kept)["spec"]["containers"]) if kept else {}
    return GroupRecord(
        environment=tuple(Started(name=name, value=value, source="computed") for name, value in values.items()),
        kv_type=values.get("OLLAMA_KV_CACHE_TYPE", "f16"),
        spread=values.get("OLLAMA_SCHED_SPREAD") == "1",
    )


def environment_of(containers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The variables of the Ollama container among those of a pod."""
    ollama: Mapping[str, Any] = next((one for one in containers if one["name"] == names.CONTAINER_OLLAMA), {})
    return {entry["name"]: entry.get("value", "") for entry in ollama.get("env", ())}


def _pinned(group: Group) -> list[tuple[str, str, str]]:
    return sorted(
        (model.name, model.manifest_digest, model.modelfile.adapter or "")
        for model in group.config.models
        if model.residency == "Pinned"
    )
