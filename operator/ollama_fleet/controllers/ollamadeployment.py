"""Reconciling an OllamaDeployment: observe, plan, apply, and say in the status what holds.

Level-triggered: everything is decided from the caches and the pods' own answers, whatever woke the key. Each step
is safe to repeat, and a converged deployment makes no request at all but for the claim of its cache, if it has one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ollama_fleet.api.deploymentstatus import OllamaDeploymentStatus
from ollama_fleet.api.group import GroupConfig, GroupRecord
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers import claims, refusals, status, verdicts
from ollama_fleet.controllers.caches import Caches
from ollama_fleet.controllers.children import Children
from ollama_fleet.controllers.conditions import Stuck, Verdict
from ollama_fleet.controllers.expecting import Expectations, options_of
from ollama_fleet.controllers.invalid import first_problem
from ollama_fleet.controllers.measurements import Measurements
from ollama_fleet.controllers.next_look import FOLLOW_SECONDS, next_look
from ollama_fleet.controllers.nodes import Nodes
from ollama_fleet.controllers.observation import ObservedGroup
from ollama_fleet.controllers.observer import Observer
from ollama_fleet.controllers.pace import Pace
from ollama_fleet.controllers.placement import Placer
from ollama_fleet.controllers.podwriter import PodWriter
from ollama_fleet.controllers.vram import occupancy
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import MERGE_PATCH, KubeClient
from ollama_fleet.kube.events import EventRecorder, EventType
from ollama_fleet.kube.queue import Key
from ollama_fleet.manifests.names import Owner, child_name
from ollama_fleet.manifests.render import RECORD_KEY, render
from ollama_fleet.manifests.rollout import started
from ollama_fleet.planning.inventory import survey
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.request import ClaimView, ImagePolicy, ModelSetView, PlanRequest, PreviousGroup

Object = Mapping[str, Any]


@dataclass(slots=True)
class OllamaDeploymentController:
    """Makes OllamaDeployments true."""

    client: KubeClient
    caches: Caches
    observer: Observer
    children: Children
    pods: PodWriter
    placer: Placer
    measurements: Measurements
    nodes: Nodes
    events: EventRecorder
    policy: ImagePolicy
    fleet_namespaces: tuple[str, ...]
    now: Callable[[], datetime]
    clock: Callable[[], float] = time.monotonic
    expectations: Expectations = field(default_factory=Expectations)
    pace: Pace = field(default_factory=Pace)

    async def reconcile(self, key: Key) -> float | None:
        """One pass over one OllamaDeployment; seconds after which it wants another look, or None."""
        live = self.caches.ollama_deployments.get(key.namespace, key.name)
        if live is None or "deletionTimestamp" in live["metadata"]:
            # The garbage collector follows the owner references of the children.
            return None
        in_force = self.observer.configs(live)
        try:
            spec = OllamaDeploymentSpec.model_validate(live["spec"])
        except ValidationError as error:
            return await self._go_on(live, Problem(Reason.INVALID_SPEC, first_problem(error)), in_force)
        claim = await claims.read(self.client, spec.storage, namespace=key.namespace)
        request = self._request(live, spec, in_force, claim)
        plan = plan_deployment(request)
        refusal = None
        if not plan.problems:
            refusal = await self._apply(live, plan)
            in_force = {group.name: group.config for group in plan.groups}
        elif spec.suspend:
            await self._suspend(live)
        groups = await self.observer.groups(live, in_force)
        options = options_of(request, plan) if spec.hardware.gpu else {}
        expected = self.expectations.of(_uid(live), request, plan, in_force, options)
        again = await self.pods.update(groups, in_force, expected=expected)
        if refusal is None:
            self.measurements.take(groups, in_force, options)
        refusal = refusal or await self._place(live, plan, groups, claim)
        verdict = refusal or verdicts.judge(plan, groups, suspended=bool(spec.suspend))
        return await self._say(live, plan, groups, in_force, verdict=verdict, again=again)

    async def _go_on(self, live: Object, problem: Problem, in_force: Mapping[str, GroupConfig]) -> float | None:
        """Without a spec: what runs is watched over as the last plan wants it."""
        plan = Plan(problems=(problem,))
        groups = await self.observer.groups(live, in_force)
        again = await self.pods.update(groups, in_force, expected=self.expectations.kept(_uid(live), in_force))
        verdict = verdicts.judge(plan, groups, suspended=False)
        return await self._say(live, plan, groups, in_force, verdict=verdict, again=again)

    async def _say(
        self,
        live: Object,
        plan: Plan,
        groups: Sequence[ObservedGroup],
        in_force: Mapping[str, GroupConfig],
        *,
        verdict: Verdict,
        again: float | None,
    ) -> float | None:
        """Bring the status up to date; seconds until the next look, at most those until ``again``."""
        previous = OllamaDeploymentStatus.model_validate(live.get("status", {}))
        wanted = status.build(
            plan,
            status.in_force(plan, in_force, groups, previous=previous),
            groups,
            verdict=verdict,
            vram=occupancy((one for group in groups for one in group.pods), self.pods.reports.of),
            previous=previous,
            owner=Owner.of(live),
            generation=live["metadata"]["generation"],
            now=self.now(),
        )
        if self.pace.holds(_uid(live), previous, wanted, now=self.clock()):
            return FOLLOW_SECONDS
        await self._write(live, previous, wanted, verdict)
        look = next_look(plan, verdict, groups, in_force)
        return min((delay for delay in (look, again) if delay is not None), default=None)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an OllamaDeployment that is gone."""
        self.pace.forget(uid)
        self.expectations.forget(uid)

    def _request(
        self, live: Object, spec: OllamaDeploymentSpec, in_force: Mapping[str, GroupConfig], claim: ClaimView | None
    ) -> PlanRequest:
        metadata = live["metadata"]
        names_ = [reference.name for reference in spec.model_sets]
        crowded = self.observer.crowded(live, now=self.now())
        records = {name: self._record(live, name) for name in in_force}
        starved = self.observer.starved(live, records)
        return PlanRequest(
            namespace=metadata["namespace"],
            name=metadata["name"],
            spec=spec,
            model_sets={name: self._model_set(metadata["namespace"], name) for name in names_},
            previous=tuple(
                PreviousGroup(
                    name=name,
                    config=config,
                    crowded=name in crowded,
                    record=records[name],
                    starved=starved.get(name, frozenset()),
                )
                for name, config in sorted(in_force.items())
            ),
            policy=self.policy,
            fleet_namespaces=self.fleet_namespaces,
            measured=self.measurements.calibration,
            survey=lambda: survey(spec, self.nodes.views(deployment=f"{metadata['namespace']}/{metadata['name']}")),
            claim=claim,
        )

    def _record(self, live: Object, group: str) -> GroupRecord:
        """What the last plan noted of a group; one that an earlier version made says what it can."""
        config_map = self.caches.config_maps.get(live["metadata"]["namespace"], child_name(Owner.of(live), group))
        try:
            return GroupRecord.model_validate_json((config_map or {}).get("data", {}).get(RECORD_KEY, ""))
        except ValidationError:
            deployment = self._deployment(live, group)
            return started(deployment) if deployment else GroupRecord()

    def _model_set(self, namespace: str, name: str) -> ModelSetView | Problem | None:
        live = self.caches.model_sets.get(namespace, name)
        if live is None:
            return None
        try:
            spec = ModelSetSpec.model_validate(live["spec"])
        except ValidationError as error:
            return Problem(Reason.INVALID_SPEC, f"ModelSet {name}: {first_problem(error)}")
        status = ModelSetStatus.model_validate(live.get("status", {}))
        return ModelSetView(name, spec, status, generation=live["metadata"]["generation"])

    async def _apply(self, live: Object, plan: Plan) -> Stuck | None:
        """Apply the plan's objects, then delete what it no longer names; what the API server refuses is a verdict."""
        known = self.observer.children(live)
        by_name = {(child["kind"], child["metadata"]["name"]): child for child in known}
        wishes = [
            wish
            for group in plan.groups
            for wish in render(group, owner=Owner.of(live), live=self._deployment(live, group.name))
        ]
        try:
            for wish in wishes:
                await self.children.apply(wish, live=by_name.get((wish["kind"], wish["metadata"]["name"])), owner=live)
        except refusals.REFUSALS as refused:
            return refusals.verdict(refused, kind=wish["kind"])
        await self.children.prune(known, keep=wishes, groups=(group.name for group in plan.groups))
        return None

    async def _suspend(self, live: Object) -> None:
        """Servers of the last plan go without a new one: to stop needs none."""
        for child in self.observer.children(live):
            metadata = child["metadata"]
            if child["kind"] == "Deployment" and child["spec"].get("replicas"):
                body = {"metadata": {"uid": metadata["uid"]}, "spec": {"replicas": 0}}
                await self.client.patch(
                    kinds.DEPLOYMENT, metadata["namespace"], metadata["name"], body, content_type=MERGE_PATCH
                )

    def _deployment(self, live: Object, group: str) -> Object | None:
        metadata = live["metadata"]
        return self.caches.deployments.get(metadata["namespace"], child_name(Owner.of(live), group))

    async def _place(
        self, live: Object, plan: Plan, groups: Sequence[ObservedGroup], claim: ClaimView | None
    ) -> Stuck | None:
        """Bring gated pods to nodes with filled caches; a cache that cannot be filled is a verdict."""
        seen = {group.name: group for group in groups}
        failed = []
        try:
            for group in plan.groups:
                if group.name in seen:
                    failed += await self.placer.place(live, group, seen[group.name], claim=claim.uid if claim else "")
        except refusals.REFUSALS as refused:
            return refusals.verdict(refused, kind="Job")
        if failed:
            cache = f"cache of node {failed[0].node}" if failed[0].node else "claim of the cache"
            return Stuck(failed[0].reason, f"The {cache} cannot be filled: {failed[0].message}")
        return None

    async def _write(
        self, live: Object, previous: OllamaDeploymentStatus, wanted: OllamaDeploymentStatus, verdict: Verdict
    ) -> None:
        if wanted == previous:
            return
        metadata = live["metadata"]
        await self.client.apply_status(
            kinds.OLLAMA_DEPLOYMENT, metadata["namespace"], metadata["name"], wanted.to_wire(), uid=metadata["uid"]
        )
        if status.reason_of(previous) != verdict.reason:
            event_type: EventType = "Warning" if isinstance(verdict, Stuck) else "Normal"
            self.events.record(live, reason=verdict.reason, message=verdict.message, event_type=event_type)


def _uid(live: Object) -> str:
    found: str = live["metadata"]["uid"]
    return found
