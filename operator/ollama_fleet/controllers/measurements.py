"""What loads really took, by the driver's count: kept in one ConfigMap, so that the next plan counts with it."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.api.state import SidecarState
from ollama_fleet.controllers.observation import ObservedGroup
from ollama_fleet.controllers.pods import PodView
from ollama_fleet.controllers.reports import Reports
from ollama_fleet.controllers.warmth import starved
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.planning.footprints import Options, calibration_key
from ollama_fleet.sizing.calibration import Calibration

logger = logging.getLogger(__name__)

NAME: Final = "ollama-fleet-calibration"
_KEY: Final = "calibration.json"
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class _Load:
    """A model in the memory of a pod, by its node's report."""

    used: int
    """Bytes, over all its GPUs."""
    gpus: int
    product: str


@dataclass(slots=True)
class Measurements:
    """Takes measurements in; ``save`` writes them when there are new ones."""

    client: KubeClient
    namespace: str
    reports: Reports
    calibration: Calibration = field(default_factory=Calibration)
    _taken: dict[str, set[tuple[str, str, bool]]] = field(default_factory=dict)
    """By uid of the pod: Ollama container, model, and whether its load worked, that were noted."""
    _saved: Calibration = field(default_factory=Calibration)

    async def load(self) -> None:
        """Read what an earlier leader wrote."""
        found = await self.client.get(kinds.CONFIG_MAP, self.namespace, NAME)
        if found is not None:
            self.calibration = self._saved = Calibration.from_wire(found.get("data", {}).get(_KEY, ""))

    async def save(self) -> None:
        """Write what is new; a failure is tried again the next time, for nothing is lost by that."""
        if self.calibration == self._saved:
            return
        wish = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "data": {_KEY: self.calibration.to_wire()},
        }
        written = self.calibration
        try:
            await self.client.apply(wish)
        except errors.KubeError as error:
            logger.warning("measurements were not saved", extra={"error": str(error)})
            return
        self._saved = written

    def take(
        self, groups: list[ObservedGroup], configs: Mapping[str, GroupConfig], options: Mapping[str, Options]
    ) -> None:
        """Note the loads of all servers, each once per start of Ollama: what they took, or that they found no room.

        ``configs`` and ``options`` are those that the groups run with; groups without options are not measured. Nor are
        servers of an older plan: what they take says nothing of these options.
        """
        for group in groups:
            if group.name not in configs or group.name not in options:
                continue
            config, wanted = configs[group.name], options[group.name]
            for observed in group.pods:
                pod, state = observed.pod, observed.state
                if state is None or pod.deleting or not pod.ollama_container or state.config_hash != config.hash():
                    continue
                if pod.environment == group.environment:
                    self._failures(pod, state, config, wanted)
                if group.rolled_out:
                    self._loads(pod, state, config, wanted)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self._taken.pop(uid, None)

    def _failures(self, pod: PodView, state: SidecarState, config: GroupConfig, options: Options) -> None:
        told = {model.name: model for model in state.models}
        for model in config.models:
            found = told.get(model.name)
            if found is None or not starved(found):
                continue
            if self._note(pod, model.name, worked=False):
                key = calibration_key(model, options, parallel=config.num_parallel, product=options.product)
                self.calibration = self.calibration.out_of_memory(key)
                logger.warning("load found no room", extra={"pod": pod.reference, "model": model.name})

    def _loads(self, pod: PodView, state: SidecarState, config: GroupConfig, options: Options) -> None:
        report = self.reports.of(pod.node)
        settled = pod.gate == "True" and state.ready
        if not settled or report is None or not report.fresh:
            return
        for model in config.models:
            load = _load(pod, model, report.status, alone=len(config.models) == 1)
            if load is None or not self._note(pod, model.name, worked=True):
                continue
            seen = replace(options, gpus=load.gpus)
            key = calibration_key(model, seen, parallel=config.num_parallel, product=load.product)
            self.calibration = self.calibration.record(key, load.used)
            fields = {"pod": pod.reference, "model": model.name, "mebibytes": load.used // _MIB}
            logger.info("load measured", extra=fields)

    def _note(self, pod: PodView, model: str, *, worked: bool) -> bool:
        """Whether it is news."""
        known = self._taken.setdefault(pod.uid, set())
        entry = (pod.ollama_container, model, worked)
        if entry in known:
            return False
        known.add(entry)
        return True


def _load(pod: PodView, model: GroupModel, report: NodeVRAMReportStatus, *, alone: bool) -> _Load | None:
    """What a model takes; None where that is not certain, or a part of it is in system memory."""
    resident = next((one for one in report.models if (one.pod, one.name) == (pod.reference, model.name)), None)
    if resident is None or resident.size_vram < resident.size:
        return None
    found = list(_shares(pod, report, resident.weights)) if resident.weights else []
    if not found and alone:
        # The agent does not see the commands of processes: of a server's only model they are all.
        found = list(_shares(pod, report, None))
    used = sum(share for share, _ in found)
    # Labels of nodes have dashes where the driver has spaces.
    return _Load(used, len(found), found[0][1].replace(" ", "-")) if used else None


def _shares(pod: PodView, report: NodeVRAMReportStatus, weights: str | None) -> Iterator[tuple[int, str]]:
    """Bytes and product of each GPU that the pod's processes (with these weights, if given) have memory on."""
    for gpu in report.gpus:
        mine = [one for one in gpu.processes if one.pod == pod.reference and weights in {None, one.weights}]
        if mine:
            yield sum(one.used_mebibytes for one in mine) * _MIB, gpu.product
