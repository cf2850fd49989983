"""The operator's writes on pods: the readiness gate, and the nudge that makes a kubelet sync a new configuration."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig
from ollama_fleet.controllers import gates, vram
from ollama_fleet.controllers.demotion import Case, Demotions
from ollama_fleet.controllers.gates import Gate
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.pods import PodView
from ollama_fleet.controllers.reports import Report, Reports
from ollama_fleet.controllers.together import together
from ollama_fleet.controllers.vram import Objection
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import MERGE_PATCH, STRATEGIC_MERGE_PATCH, KubeClient
from ollama_fleet.kube.events import EventRecorder
from ollama_fleet.planning.expectations import Expectation

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PodWriter:
    """Brings gates and configuration hashes of pods up to date; an unchanged pod is not written."""

    client: KubeClient
    reports: Reports
    events: EventRecorder
    now: Callable[[], datetime]
    agents: bool = False
    """Whether every node is meant to have an agent: then policy ``VRAM`` waits for its first report."""
    demotions: Demotions = field(default_factory=Demotions)

    async def update(
        self,
        groups: Sequence[ObservedGroup],
        configs: Mapping[str, GroupConfig],
        *,
        expected: Mapping[str, Expectation],
    ) -> float | None:
        """Write what differs, all pods at once.

        ``expected`` has the groups with policy ``VRAM``. Returns the seconds after which a gate may have to change
        although nothing else does.
        """
        known = [group for group in groups if group.name in configs]
        rounds = [self._round(group, configs[group.name], expected.get(group.name)) for group in known]
        await together(
            *(
                self._pod(observed, configs[group.name], round_.gates.get(observed.pod.uid))
                for group, round_ in zip(known, rounds, strict=True)
                for observed in group.pods
                if not observed.pod.deleting
            )
        )
        return min((round_.again for round_ in rounds if round_.again is not None), default=None)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self.demotions.forget([uid])

    def _round(self, group: ObservedGroup, config: GroupConfig, expected: Expectation | None) -> "_Round":
        """The gates of a group's pods, decided together: how many may leave service depends on the others."""
        pods = [observed for observed in group.pods if not observed.pod.deleting and _decidable(observed.pod)]
        found = {o.pod.uid: gates.by_sidecar(o.pod, state=o.state, config=config) for o in pods}
        if expected is None:
            return _Round(found)
        cases, objections = [], dict[str, Objection | None]()
        for observed in pods:
            pod, uid = observed.pod, observed.pod.uid
            if not pod.wants_gpus:
                # From before the deployment was moved to GPUs: until those serve, it is what serves.
                continue
            report = self.reports.of(pod.node)
            told = None
            if report is not None and report.fresh:
                told = vram.objection(pod, report=report.status, state=observed.state, config=config, expected=expected)
            silent = None if told else self._silent(pod, report)
            if found[uid].status == "False" or report is None or silent:
                self.demotions.forget([uid])
                found[uid] = silent if silent and found[uid].status == "True" else found[uid]
                continue
            objections[uid] = told
            cases.append(_case(pod, told))
        judged = self.demotions.rule(cases, servers=len(pods), serving=group.ready)
        for uid, judgment in judged.items():
            gate = gates.by_report(found.pop(uid), judgment, objections[uid])
            if gate is not None:
                found[uid] = gate
        return _Round(found, min((j.again for j in judged.values() if j.again is not None), default=None))

    def _silent(self, pod: PodView, report: Report | None) -> Gate | None:
        """The gate of a pod of which its node's agent says nothing; None where it does, or none is to be had."""
        if report is None:
            return gates.without_report(pod, "has not reported yet") if self.agents else None
        if not report.fresh:
            return gates.without_report(pod, "does not report any more")
        if vram.driver_failed(report.status):
            return gates.without_report(pod, "gets no answer from the GPU driver")
        return None if vram.heard(pod, report.status) else gates.unheard(pod)

    async def _pod(self, observed: ObservedPod, config: GroupConfig, gate: Gate | None) -> None:
        try:
            await self._nudge(observed.pod, config)
            if gate is not None and gates.changed(observed.pod, gate):
                await self._gate(observed.pod, gate)
        except (errors.NotFound, errors.Conflict):
            # The pod went or changed meanwhile: its event brings the key back.
            logger.debug("pod changed under the write", extra={"pod": observed.pod.name})

    async def _nudge(self, pod: PodView, config: GroupConfig) -> None:
        """A kubelet looks at a pod's ConfigMaps about once a minute, but at once when the pod changes."""
        if pod.config_hash == config.hash():
            return
        body = {"metadata": {"uid": pod.uid, "annotations": {names.ANNOTATION_CONFIG_HASH: config.hash()}}}
        await self.client.patch(kinds.POD, pod.namespace, pod.name, body, content_type=MERGE_PATCH)

    async def _gate(self, pod: PodView, gate: Gate) -> None:
        body = gates.condition_patch(gate, pod=pod, now=self.now())
        await self.client.patch(
            kinds.POD, pod.namespace, pod.name, body, content_type=STRATEGIC_MERGE_PATCH, subresource="status"
        )
        news = gates.news(pod, gate)
        if not news:
            return
        fields = {"pod": pod.reference, "status": gate.status, "reason": gate.reason}
        logger.info("readiness gate", extra=fields)
        metadata = {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        self.events.record(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata},
            reason=gate.reason,
            message=f"Readiness gate {news}: {gate.message}",
            event_type="Normal" if news == "opens" else "Warning",
        )


@dataclass(frozen=True, slots=True)
class _Round:
    gates: dict[str, Gate]
    """By pod; one that is not in it stays as it is."""
    again: float | None = None


def _decidable(pod: PodView) -> bool:
    return pod.gated and pod.sidecar_running


def _case(pod: PodView, objection: Objection | None) -> Case:
    return Case(
        uid=pod.uid,
        open=pod.gate == "True",
        serving=pod.ready,
        demoted=pod.gate == "False" and pod.gate_reason in gates.DEMOTING,
        objection=objection,
    )
