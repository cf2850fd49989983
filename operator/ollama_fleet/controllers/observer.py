"""Reading what stands in the cluster for one OllamaDeployment: caches first, then its own pods."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig, GroupRecord
from ollama_fleet.api.state import ModelPhase, SidecarState
from ollama_fleet.controllers import room
from ollama_fleet.controllers.caches import BY_DEPLOYMENT, Caches
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod, owned
from ollama_fleet.controllers.pods import PodView, trouble, view
from ollama_fleet.controllers.podservers import PodServers
from ollama_fleet.controllers.warmth import cold, starved
from ollama_fleet.manifests.prepull import LABEL_PULLS_FOR
from ollama_fleet.manifests.rollout import environment_of

Object = Mapping[str, Any]

CONFIG_KEY = names.PATH_CONFIG.rpartition("/")[2]
"""Key of the group configuration in its ConfigMap."""


@dataclass(slots=True)
class Observer:
    """Observes groups. Remembers the last state of each warm pod, so that a converged fleet is not asked again."""

    caches: Caches
    servers: PodServers
    _states: dict[str, tuple[str, SidecarState]] = field(default_factory=dict)
    """By pod uid: the Ollama container that was asked, and its sidecar's answer."""

    def children(self, owner: Object) -> list[Object]:
        """All live children of an OllamaDeployment, of every kind that is applied for it."""
        return [
            child
            for informer in self.caches.children()
            for child in informer.by_index(BY_DEPLOYMENT, _key(owner))
            if owned(child, owner)
        ]

    def configs(self, owner: Object) -> dict[str, GroupConfig]:
        """The configuration that stands in the cluster, by group: the plan in force."""
        found = {}
        for config_map in self.caches.config_maps.by_index(BY_DEPLOYMENT, _key(owner)):
            try:
                config = GroupConfig.model_validate_json(config_map.get("data", {}).get(CONFIG_KEY, ""))
            except ValidationError:
                # Written by another version of the operator, or edited: as good as absent, it is applied again.
                continue
            found[config.group] = config
        return found

    async def groups(self, owner: Object, configs: Mapping[str, GroupConfig]) -> list[ObservedGroup]:
        """The groups as they stand; ``configs`` says what their pods should serve."""
        key = _key(owner)
        raw = self.caches.pods.by_index(BY_DEPLOYMENT, key)
        observed = await asyncio.gather(*(self._pod(pod, configs) for pod in raw))
        pulls = [
            (pod["metadata"]["labels"].get(LABEL_PULLS_FOR), one.progress)
            for pod, one in zip(raw, observed, strict=True)
        ]
        deployments = {
            deployment["metadata"]["labels"].get(names.LABEL_GROUP, ""): deployment
            for deployment in self.caches.deployments.by_index(BY_DEPLOYMENT, key)
            if owned(deployment, owner)
        }
        return [
            ObservedGroup(
                name=group,
                deployment=deployments.get(group),
                pods=tuple(sorted((o for o in observed if o.pod.group == group), key=lambda o: o.pod.name)),
                pulls=tuple(progress for name, progress in pulls if name == group and progress),
            )
            for group in sorted({*configs, *deployments})
        ]

    def starved(self, owner: Object, records: Mapping[str, GroupRecord]) -> dict[str, frozenset[str]]:
        """By group, the models that found too little memory on every server that tried to load them.

        Servers that were not started as the group's record says are on their way out and prove nothing.
        """
        failed: dict[str, set[str]] = {}
        loaded: dict[str, set[str]] = {}
        for pod in self.caches.pods.by_index(BY_DEPLOYMENT, _key(owner)):
            group = pod["metadata"]["labels"].get(names.LABEL_GROUP, "")
            _, state = self._states.get(pod["metadata"]["uid"], ("", None))
            if state is None or group not in records or not _started_as(pod, records[group]):
                continue
            failed.setdefault(group, set()).update(model.name for model in state.models if starved(model))
            loaded.setdefault(group, set()).update(m.name for m in state.models if m.phase is ModelPhase.WARM)
        return {group: frozenset(models - loaded[group]) for group, models in failed.items()}

    def crowded(self, owner: Object, *, now: datetime) -> frozenset[str]:
        """Groups whose rollout finds no room for a new server beside the old ones.

        Once it is so, it stays so until the rollout is done: the room that each replaced server leaves is not enough
        for two.
        """
        key = _key(owner)
        pods = self.caches.pods.by_index(BY_DEPLOYMENT, key)
        found = []
        for deployment in self.caches.deployments.by_index(BY_DEPLOYMENT, key):
            name = deployment["metadata"]["labels"].get(names.LABEL_GROUP, "")
            group = ObservedGroup(name, deployment)
            mine = [pod for pod in pods if pod["metadata"]["labels"].get(names.LABEL_GROUP) == name]
            if not group.rolled_out and (group.one_by_one or room.lacking(mine, now=now)):
                found.append(name)
        return frozenset(found)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self._states.pop(uid, None)

    async def _pod(self, raw: Object, configs: Mapping[str, GroupConfig]) -> ObservedPod:
        pod = view(raw)
        config = configs.get(pod.group)
        found = trouble(raw)
        if pod.puller_running and pod.ip:
            return ObservedPod(pod, found, progress=await self.servers.progress(pod.ip))
        return ObservedPod(pod, found, state=await self._state(pod, config))

    async def _state(self, pod: PodView, config: GroupConfig | None) -> SidecarState | None:
        """The sidecar's state: remembered while nothing can have changed, else asked for."""
        if not pod.sidecar_running or not pod.ip:
            return None
        container, known = self._states.get(pod.uid, ("", None))
        if known is not None and container == pod.ollama_container and _settled(pod, known, config):
            return known
        state = await self.servers.state(pod.ip)
        if state is not None:
            self._states[pod.uid] = (pod.ollama_container, state)
        return state


def _settled(pod: PodView, known: SidecarState, config: GroupConfig | None) -> bool:
    """Whether the pod takes traffic with the wanted configuration: then the kubelet tells when that ends."""
    if config is None or not pod.ready or not known.ready or known.config_hash != config.hash():
        return False
    # A model that joined a ready pod may still be on its way into memory.
    return not cold(known, config)


def _key(owner: Object) -> str:
    return f"{owner['metadata']['namespace']}/{owner['metadata']['name']}"


def _started_as(pod: Object, record: GroupRecord) -> bool:
    return environment_of(pod["spec"]["containers"]) == {one.name: one.value for one in record.environment}
