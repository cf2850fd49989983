"""What a pod of a group says about itself: a small view of it, and the trouble it is in. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ollama_fleet.api import names
from ollama_fleet.api.reasons import Reason
from ollama_fleet.manifests.rollout import environment_of
from ollama_fleet.planning.placement import required_terms

_IMAGE_TROUBLE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_START_TROUBLE = frozenset(
    {
        "CrashLoopBackOff",
        "RunContainerError",
        "CreateContainerError",
        "CreateContainerConfigError",
        "StartError",
    }
)


@dataclass(frozen=True, slots=True)
class PodView:
    """The facts of one pod that the operator decides on."""

    namespace: str
    name: str
    uid: str
    group: str
    environment: Mapping[str, str]
    """That Ollama was started with."""
    config_hash: str
    ip: str
    node: str
    deleting: bool
    scheduling_gated: bool
    puller_running: bool
    sidecar_running: bool
    ollama_ready: bool
    """The kubelet's view of the Ollama container, which is the sidecar's ``/readyz``."""
    ollama_container: str
    """Container id; another id is another Ollama with nothing in memory."""
    ollama_image_id: str
    """What the node made of the image's name."""
    ready: bool
    """The pod condition that Services follow."""
    gated: bool
    """Whether the pod has the readiness gate at all."""
    gate: str
    """Status of the readiness gate, empty while nobody has set it."""
    gate_reason: str
    gate_message: str
    wants_gpus: bool
    """Whether the Ollama container asks for devices."""

    @property
    def reference(self) -> str:
        """As the agents' reports name it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not come up."""

    reason: Reason
    message: str


def view(pod: Mapping[str, Any]) -> PodView:
    """The facts of a pod as the API server sends it."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    gate = conditions.get(names.READINESS_GATE, {})
    containers = {container["name"]: container for container in _statuses(status)}
    ollama = containers.get(names.CONTAINER_OLLAMA, {})
    return PodView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        group=labels.get(names.LABEL_GROUP, ""),
        environment=environment_of(spec.get("containers", ())),
        config_hash=annotations.get(names.ANNOTATION_CONFIG_HASH, ""),
        ip=status.get("podIP", ""),
        node=spec.get("nodeName", ""),
        deleting="deletionTimestamp" in metadata,
        scheduling_gated=scheduling_gated(pod),
        puller_running=_running(containers.get(names.CONTAINER_PULLER, {})),
        sidecar_running=_running(containers.get(names.CONTAINER_SIDECAR, {})),
        ollama_ready=bool(ollama.get("ready")),
        ollama_container=ollama.get("containerID", ""),
        ollama_image_id=ollama.get("imageID", ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        gated=any(g["conditionType"] == names.READINESS_GATE for g in spec.get("readinessGates", ())),
        gate=gate.get("status", ""),
        gate_reason=gate.get("reason", ""),
        gate_message=gate.get("message", ""),
        wants_gpus=_wants_devices(spec),
    )


def scheduling_gated(pod: Mapping[str, Any]) -> bool:
    """Whether the operator has not placed it yet, wherever its user lets it go."""
    return any(gate["name"] == names.SCHEDULING_GATE for gate in pod.get("spec", {}).get("schedulingGates", ()))


def ended(pod: Mapping[str, Any]) -> bool:
    """Whether it runs nothing and never will: it is done, or was evicted or refused by its node."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def trouble(pod: Mapping[str, Any]) -> Trouble | None:
    """What keeps a pod from running, or None when it only needs time."""
    status = pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            asked = _devices_asked(pod.get("spec", {}))
            return Trouble(Reason.UNSCHEDULABLE, f"No node takes the pod{asked}: {condition.get('message', '')}")
    for container in _statuses(status):
        found = _container_trouble(container)
        if found:
            return found
    return None


def _container_trouble(container: Mapping[str, Any]) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_TROUBLE:
        return Trouble(
            Reason.IMAGE_PULL_FAILED,
            f"Image {container.get('image', '')} of container {container['name']} cannot be pulled "
            f"({reason}): check its name, tag and pull secret. {message}",
        )
    if reason in _START_TROUBLE:
        last = container.get("lastState", {}).get("terminated", {})
        died = f" after exit code {last['exitCode']} ({last.get('reason', '')})" if "exitCode" in last else ""
        return Trouble(
            Reason.CONTAINER_CRASHING,
            f"Container {container['name']} does not stay up: {reason}{died}; see its log. {message}",
        )
    return None


def _statuses(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def _wants_devices(spec: Mapping[str, Any]) -> bool:
    return bool(_devices(spec))


def _devices(spec: Mapping[str, Any]) -> dict[str, str]:
    """Names of devices have a domain, unlike those of processors and memory."""
    ollama = (container for container in spec.get("containers", ()) if container["name"] == names.CONTAINER_OLLAMA)
    limits = (one.get("resources", {}).get("limits", {}) for one in ollama)
    return {resource: count for found in limits for resource, count in found.items() if "/" in resource}


def _devices_asked(spec: Mapping[str, Any]) -> str:
    """What the scheduler leaves out: it says that no label fits, and not which was asked for."""
    devices = _devices(spec)
    domains = {resource.partition("/")[0] for resource in devices}
    wanted = {
        f"{demand['key']} {demand['operator']} {' or '.join(demand.get('values', ()))}"
        for term in required_terms(spec.get("affinity"))
        for demand in term.get("matchExpressions", ())
        if demand["key"].partition("/")[0] in domains
    }
    asked = [f"{count} {resource}" for resource, count in devices.items()] + sorted(wanted)
    return f", which asks for {', '.join(asked)}" if asked else ""


def _running(container: Mapping[str, Any]) -> bool:
    return "running" in container.get("state", {})
