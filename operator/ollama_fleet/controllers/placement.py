"""Filling caches by Jobs, and placing servers with a ``Node`` cache: choose a node, fill it, let the pod go there.

No pod holds a GPU while gigabytes are pulled: until then it carries a scheduling gate.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.ollamadeployment import EPHEMERAL
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers import jobs, room
from ollama_fleet.controllers.caches import BY_DEPLOYMENT, Caches
from ollama_fleet.controllers.children import Children
from ollama_fleet.controllers.jobs import JobView
from ollama_fleet.controllers.observation import ObservedGroup
from ollama_fleet.controllers.pins import Pins
from ollama_fleet.controllers.pods import ended, scheduling_gated
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import MERGE_PATCH, KubeClient
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.pod import node_affinity
from ollama_fleet.manifests.prepull import job_name, pin, prepull_job
from ollama_fleet.planning.placement import Amounts, Demand, Load, NodeView, choose, required_terms
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.quantities import parse_quantity

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

_TRY_AGAIN_SECONDS: Final = 60.0
"""After which a failed Job makes way for a new one: the registry may have what it lacked."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one pass over one group goes by."""

    live: Object
    group: Group
    claim: str
    current: Mapping[str | None, JobView]
    """The Job that fills what the group uses now, by node; None for the claim."""
    loads: dict[str, Load]
    failed: list[JobView] = field(default_factory=list)
    """Of those that are needed."""

    @property
    def server(self) -> str:
        """What is to be placed."""
        return f"{self.live['metadata']['uid']}/{self.group.name}"


@dataclass(slots=True)
class Placer:
    """Fills the caches of groups, and places the gated pods of those with a ``Node`` cache."""

    client: KubeClient
    caches: Caches
    children: Children
    now: Callable[[], datetime]
    pins: Pins = field(default_factory=Pins)

    async def place(self, live: Object, group: Group, seen: ObservedGroup, *, claim: str) -> list[JobView]:
        """One pass over one group: Jobs where they are missing, gates off where a cache is filled.

        ``claim`` is the uid of the cache's claim, if it has one. Returns the Jobs that failed where the group needs
        them.
        """
        cache = (group.storage.cache or EPHEMERAL).type
        current = await self._current(live, group, claim)
        at = _Pass(live, group, claim, current, self._loads(group, seen, current) if cache == "Node" else {})
        if cache == "Claim" and group.replicas:
            await self._fill(at, None)
        if cache != "Node":
            return at.failed
        for node in sorted({o.pod.node for o in seen.pods if o.pod.node and not o.pod.deleting}):
            await self._fill(at, node)
        for observed in seen.pods:
            if observed.pod.scheduling_gated and not observed.pod.deleting:
                await self._place_one(at, observed.pod.name)
            elif observed.trouble and observed.trouble.reason is Reason.UNSCHEDULABLE and not observed.pod.deleting:
                await self._place_anew(at, observed.pod.name)
        return at.failed

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self.pins.forget(uid)

    async def _place_one(self, at: _Pass, pod: str) -> None:
        raw = self.caches.pods.get(at.live["metadata"]["namespace"], pod)
        if raw is None:
            return
        demand = _demand(raw, at.group, raw["spec"].get("affinity"))
        node = self._choose(at, demand)
        if node is None:
            # Node autoscalers act on pods that the scheduler could not place: a gated one is none.
            await self._release(raw, node=None)
            return
        before = at.loads.get(node, Load())
        total = _sum(before.requests, demand.requests)
        at.loads[node] = replace(before, requests=total, servers=before.servers + 1)
        job = at.current.get(node)
        if job is not None and job.done:
            await self._release(raw, node=node)
        else:
            await self._fill(at, node)

    async def _place_anew(self, at: _Pass, pod: str) -> None:
        """Delete a pod that its only node does not take while another would: the next one chooses anew."""
        raw = self.caches.pods.get(at.live["metadata"]["namespace"], pod)
        node = _destination(raw) if raw else None
        if raw is None or node is None or not self.pins.overdue(raw["metadata"]["uid"], now=self.now()):
            return
        # By the group's affinity: the pod's own names the node.
        if self._choose(at, _demand(raw, at.group, node_affinity(at.group)), but=node) is None:
            return
        self.pins.leave_out(at.server, node, now=self.now())
        metadata = raw["metadata"]
        await self.client.delete(kinds.POD, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        logger.info("pod placed anew", extra={"pod": f"{metadata['namespace']}/{metadata['name']}", "refused": node})

    def _choose(self, at: _Pass, demand: Demand, *, but: str | None = None) -> str | None:
        left_out = {but} | self.pins.left_out(at.server, now=self.now())
        nodes = (view for view in map(node_view, self.caches.nodes.list()) if view.name not in left_out)
        return choose(demand, nodes, at.loads)

    async def _fill(self, at: _Pass, node: str | None) -> None:
        """Make the Job where there is none. One that failed makes way for a new one after a while."""
        job = at.current.get(node)
        if job is None:
            wish = prepull_job(at.group, owner=Owner.of(at.live), node=node, claim=at.claim)
            await self.children.apply(wish, live=None, owner=at.live)
        elif job.failed_at is not None and job not in at.failed:
            at.failed.append(job)
            if (self.now() - job.failed_at).total_seconds() >= _TRY_AGAIN_SECONDS:
                await self._delete(at.live, job)

    async def _release(self, pod: Object, *, node: str | None) -> None:
        """Take the gate off; with a node, the pod may go nowhere else. One patch: no moment in between."""
        metadata = pod["metadata"]
        gates = [g for g in pod["spec"].get("schedulingGates", ()) if g["name"] != names.SCHEDULING_GATE]
        spec: dict[str, Any] = {"schedulingGates": gates or None}
        if node is not None:
            spec["affinity"] = {"nodeAffinity": _pinned(pod, node)}
        body = {"metadata": {"uid": metadata["uid"]}, "spec": spec}
        try:
            await self.client.patch(kinds.POD, metadata["namespace"], metadata["name"], body, content_type=MERGE_PATCH)
        except (errors.NotFound, errors.Conflict):
            return
        logger.info("pod placed", extra={"pod": f"{metadata['namespace']}/{metadata['name']}", "node": node or "any"})

    async def _delete(self, live: Object, job: JobView) -> None:
        await self.client.delete(kinds.JOB, live["metadata"]["namespace"], job.name, uid=job.uid)

    async def _current(self, live: Object, group: Group, claim: str) -> dict[str | None, JobView]:
        """The Jobs that fill what the group uses now, by node; all others are deleted."""
        owner, found = Owner.of(live), dict[str | None, JobView]()
        for raw in self.caches.jobs.by_index(BY_DEPLOYMENT, f"{owner.namespace}/{owner.name}"):
            job = jobs.view(raw)
            if job.group != group.name or "deletionTimestamp" in raw["metadata"]:
                continue
            there = job.node is None or self.caches.nodes.get(None, job.node) is not None
            if there and job.name == job_name(group, owner=owner, node=job.node, claim=claim):
                found[job.node] = job
            else:
                await self._delete(live, job)
        return found

    def _loads(self, group: Group, seen: ObservedGroup, current: Mapping[str | None, JobView]) -> dict[str, Load]:
        """What the whole fleet has on each node, as far as this operator knows."""
        loads = {node: Load(cached=job.done, failed=_failed(job)) for node, job in current.items() if node}
        mine = {observed.pod.uid for observed in seen.pods if observed.pod.group == group.name}
        for pod in self.caches.pods.list():
            node = _destination(pod)
            if node is None or ended(pod):
                continue
            before = loads.get(node, Load())
            total = _sum(before.requests, room.requests(pod))
            loads[node] = replace(before, requests=total, servers=before.servers + (pod["metadata"]["uid"] in mine))
        return loads


def _sum(one: Amounts, other: Amounts) -> dict[str, Decimal]:
    return {key: one.get(key, Decimal(0)) + other.get(key, Decimal(0)) for key in {*one, *other}}


def _failed(job: JobView) -> float:
    """Since when the node is to blame for the failure of its Job; 0.0: it is not."""
    # What the puller itself gives up on fails on every node.
    return job.failed_at.timestamp() if job.failed_at and job.reason is Reason.CONTAINER_CRASHING else 0.0


def _demand(pod: Object, group: Group, affinity: Mapping[str, Any] | None) -> Demand:
    return Demand(
        requests=room.requests(pod),
        selector=group.placement.node_selector or {},
        tolerations=group.placement.tolerations or (),
        terms=required_terms(affinity),
    )


def _pinned(pod: Object, node: str) -> dict[str, Any]:
    """The pod's required affinity with the node added to each alternative: it may only be narrowed."""
    (only,) = pin(node)["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    terms = [
        {**term, "matchFields": [*term.get("matchFields", ()), *only["matchFields"]]}
        for term in required_terms(pod["spec"].get("affinity")) or [{}]
    ]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _destination(pod: Object) -> str | None:
    """The node that a pod is on, or the only one that it may go to: the scheduler takes a while to say so."""
    bound: str | None = pod["spec"].get("nodeName")
    if bound or scheduling_gated(pod):
        return bound
    named = {_named(term) for term in required_terms(pod["spec"].get("affinity"))}
    return named.pop() if len(named) == 1 else None


def _named(term: Mapping[str, Any]) -> str | None:
    """The node that a term names, the last of them being ours; None when it leaves a choice."""
    nodes = [field["values"][0] for field in term.get("matchFields", ()) if field["operator"] == "In"]
    return nodes[-1] if nodes else None


def node_view(node: Object) -> NodeView:
    """What of a node decides where servers go."""
    spec, status = node.get("spec", {}), node.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
    return NodeView(
        name=node["metadata"]["name"],
        usable=ready and not spec.get("unschedulable"),
        labels=node["metadata"].get("labels", {}),
        taints=spec.get("taints", ()),
        allocatable={key: parse_quantity(value) for key, value in status.get("allocatable", {}).items()},
    )
