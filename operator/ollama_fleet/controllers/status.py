"""The status of an OllamaDeployment, from its plan and what is observed. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ollama_fleet.api import names
from ollama_fleet.api.deploymentstatus import DownloadStatus, GroupStatus, OllamaDeploymentStatus, ServedModel
from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.state import ModelPhase, ModelState
from ollama_fleet.controllers.conditions import Verdict, conditions
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.manifests.names import Owner, child_name, selector
from ollama_fleet.planning.plan import Plan

_LADDER = (ModelPhase.FAILED, ModelPhase.PULLING, ModelPhase.CACHED, ModelPhase.LOADING, ModelPhase.WARM)


@dataclass(frozen=True, slots=True)
class Serving:
    """A group in force: the plan's, or the last one's while the wish cannot be planned."""

    name: str
    config: GroupConfig
    replicas: int
    planned: Mapping[str, int] = field(default_factory=dict)


def in_force(
    plan: Plan,
    configs: Mapping[str, GroupConfig],
    observed: Sequence[ObservedGroup],
    *,
    previous: OllamaDeploymentStatus,
) -> list[Serving]:
    """The groups that the status speaks of."""
    if not plan.problems:
        return [Serving(group.name, group.config, group.replicas, group.planned) for group in plan.groups]
    wanted = {group.name: group.wanted for group in observed}
    planned = {name: {m.name: m.planned for m in previous.models if m.group == name} for name in configs}
    return [Serving(name, config, wanted.get(name, 0), planned[name]) for name, config in sorted(configs.items())]


def build(
    plan: Plan,
    serving: Sequence[Serving],
    groups: Sequence[ObservedGroup],
    *,
    verdict: Verdict,
    vram: str,
    previous: OllamaDeploymentStatus,
    owner: Owner,
    generation: int,
    now: datetime,
) -> OllamaDeploymentStatus:
    """The whole status; equal input gives an equal status, so that an unchanged one need not be written."""
    observed = {group.name: group for group in groups}
    models = [
        model for group in serving for model in _models(group, observed.get(group.name, ObservedGroup(group.name)))
    ]
    wanted = sum(group.replicas for group in serving)
    ready = sum(group.ready for group in groups)
    pinned = {model.name for group in serving for model in group.config.models if model.residency == "Pinned"}
    everywhere = [model for model in models if model.name in pinned and model.state == ModelPhase.WARM]
    kept = bool(plan.problems) and bool(serving)
    return OllamaDeploymentStatus(
        observed_generation=generation,
        conditions=conditions(verdict, previous=previous.conditions, generation=generation, now=now),
        replicas=min((group.replicas for group in groups), default=0),
        ready_replicas=min((group.ready for group in groups), default=0),
        ready=f"{ready}/{wanted}",
        warm=f"{len(everywhere)}/{len(pinned)}",
        vram=vram,
        selector=_selector(owner, serving[0].name) if serving else previous.selector,
        endpoint=_endpoint(owner, serving[0].name) if serving else previous.endpoint,
        version=previous.version if kept else plan.version,
        image=previous.image if kept else plan.image,
        models=models,
        groups=[_group(group, observed, owner=owner) for group in serving],
        effective=previous.effective if kept else list(plan.effective),
    )


def _group(group: Serving, observed: dict[str, ObservedGroup], *, owner: Owner) -> GroupStatus:
    seen = observed.get(group.name, ObservedGroup(group.name))
    return GroupStatus(
        name=group.name,
        deployment=child_name(owner, group.name),
        replicas=seen.replicas,
        ready=seen.ready,
        updated=seen.updated,
        models=[model.name for model in group.config.models],
        image_ids=sorted({o.pod.ollama_image_id for o in seen.pods if o.pod.ollama_image_id and not o.pod.deleting}),
        endpoint=_endpoint(owner, group.name),
    )


def _models(group: Serving, seen: ObservedGroup) -> Iterable[ServedModel]:
    pods = [observed for observed in seen.pods if not observed.pod.deleting]
    for model in group.config.models:
        states = [state for observed in pods if (state := _state(observed, model.name))]
        yield ServedModel(
            name=model.name,
            group=group.name,
            digest=model.manifest_digest,
            size=model.size,
            planned=group.planned.get(model.name, 0),
            memory=max((state.size for state in states), default=0),
            state=_least_advanced(states, pods=len(pods)),
            warm=sum(state.phase is ModelPhase.WARM for state in states),
            download=_download(model, pods),
            message=next((state.message for state in states if state.phase is ModelPhase.FAILED), ""),
        )


def _state(observed: ObservedPod, model: str) -> ModelState | None:
    if observed.state is None:
        return None
    return next((state for state in observed.state.models if state.name == model), None)


def _least_advanced(states: Sequence[ModelState], *, pods: int) -> str:
    """The phase of the pod that is furthest behind; a pod that says nothing yet counts as pulling."""
    if not pods:
        return ""
    if len(states) < pods:
        return ModelPhase.PULLING
    return min((state.phase for state in states), key=_LADDER.index)


def _download(model: GroupModel, pods: Iterable[ObservedPod]) -> DownloadStatus | None:
    found = [
        progress
        for observed in pods
        if observed.progress
        for progress in observed.progress.models
        if progress.name == model.name
    ]
    total = sum(progress.total_bytes for progress in found)
    if not total:
        return None
    completed = sum(progress.completed_bytes for progress in found)
    return DownloadStatus(completed_bytes=completed, total_bytes=total, percent=100 * completed // total)


def _selector(owner: Owner, group: str) -> str:
    return ",".join(f"{key}={value}" for key, value in selector(owner, group).items())


def _endpoint(owner: Owner, group: str) -> str:
    return f"http://{child_name(owner, group)}.{owner.namespace}.svc:{names.PORT_DATA}"


def conclusion(status: OllamaDeploymentStatus) -> tuple[object, ...]:
    """What tools act on and must hear at once: the generation seen, and what each condition says."""
    return (status.observed_generation, tuple((entry.type, entry.status) for entry in status.conditions))


def reason_of(status: OllamaDeploymentStatus) -> str:
    """The reason that the last written status gave, empty for none."""
    return next((condition.reason for condition in status.conditions), "")
