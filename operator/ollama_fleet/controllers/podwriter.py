"""The operator's writes on pods: the readiness gate, and the nudge that makes a kubelet sync a new configuration."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig
from ollama_fleet.controllers import gates
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.reports import Reports
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import MERGE_PATCH, STRATEGIC_MERGE_PATCH, KubeClient

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PodWriter:
    """Brings gates and configuration hashes of pods up to date; an unchanged pod is not written."""

    client: KubeClient
    reports: Reports
    now: Callable[[], datetime]

    async def update(
        self,
        groups: Sequence[ObservedGroup],
        configs: Mapping[str, GroupConfig],
        *,
        measured: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Write what differs, all pods at once. ``measured``: planned bytes by model of the groups with policy VRAM."""
        await asyncio.gather(
            *(
                self._pod(observed, configs[group.name], self._evidence(observed, group, measured.get(group.name)))
                for group in groups
                if group.name in configs
                for observed in group.pods
                if not observed.pod.deleting
            )
        )

    def _evidence(
        self, observed: ObservedPod, group: ObservedGroup, planned: Mapping[str, int] | None
    ) -> gates.Evidence | None:
        """Where no agent has ever reported, policy VRAM can only mean what the sidecar proves."""
        report = self.reports.of(observed.pod.node) if planned is not None and observed.pod.node else None
        if report is None or planned is None:
            return None
        others = sum(o.pod.ready and not o.pod.deleting and o.pod.uid != observed.pod.uid for o in group.pods)
        return gates.Evidence(report, planned, last_ready=not others)

    async def _pod(self, observed: ObservedPod, config: GroupConfig, evidence: gates.Evidence | None) -> None:
        try:
            await self._nudge(observed, config)
            await self._gate(observed, config, evidence)
        except (errors.NotFound, errors.Conflict):
            # The pod went or changed meanwhile: its event brings the key back.
            logger.debug("pod changed under the write", extra={"pod": observed.pod.name})

    async def _nudge(self, observed: ObservedPod, config: GroupConfig) -> None:
        """A kubelet looks at a pod's ConfigMaps about once a minute, but at once when the pod changes."""
        pod = observed.pod
        if pod.config_hash == config.hash():
            return
        body = {"metadata": {"uid": pod.uid, "annotations": {names.ANNOTATION_CONFIG_HASH: config.hash()}}}
        await self.client.patch(kinds.POD, pod.namespace, pod.name, body, content_type=MERGE_PATCH)

    async def _gate(self, observed: ObservedPod, config: GroupConfig, evidence: gates.Evidence | None) -> None:
        pod = observed.pod
        if not pod.gated or not pod.sidecar_running:
            return
        gate = gates.decide(pod, state=observed.state, config=config, evidence=evidence)
        if not gates.changed(pod, gate):
            return
        body = gates.condition_patch(gate, pod=pod, now=self.now())
        await self.client.patch(
            kinds.POD, pod.namespace, pod.name, body, content_type=STRATEGIC_MERGE_PATCH, subresource="status"
        )
        if pod.gate != gate.status:
            logger.info(
                "readiness gate",
                extra={"pod": f"{pod.namespace}/{pod.name}", "status": gate.status, "reason": gate.reason},
            )
