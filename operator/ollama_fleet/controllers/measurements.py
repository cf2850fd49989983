"""What loads really took, by the driver's count: kept in one ConfigMap, so that the next plan counts with it.

A pod's processes are not known by model, so only servers with a single model are measured.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.reports import Report, Reports
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.planning.footprints import Options, calibration_key
from ollama_fleet.sizing.calibration import Calibration

logger = logging.getLogger(__name__)

NAME: Final = "ollama-fleet-calibration"
_KEY: Final = "calibration.json"
_MIB: Final = 2**20


@dataclass(slots=True)
class Measurements:
    """Takes measurements in; ``save`` writes them when there are new ones."""

    client: KubeClient
    namespace: str
    reports: Reports
    calibration: Calibration = field(default_factory=Calibration)
    _taken: dict[str, str] = field(default_factory=dict)
    """By uid of the pod: the Ollama container whose load was measured."""
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

    def take(self, groups: list[ObservedGroup], configs: Mapping[str, GroupConfig], options: Options) -> None:
        """Measure the servers that are loaded and that a fresh report tells of, each once per start of Ollama."""
        for group in groups:
            config = configs.get(group.name)
            if config is None or len(config.models) != 1:
                continue
            for observed in group.pods:
                pod, report = observed.pod, self.reports.of(observed.pod.node)
                known = self._taken.get(pod.uid) == pod.ollama_container
                if not pod.ollama_container or known or report is None or not report.fresh:
                    continue
                self._take(observed, report, config, options)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self._taken.pop(uid, None)

    def _take(self, observed: ObservedPod, report: Report, config: GroupConfig, options: Options) -> None:
        pod, (model,) = observed.pod, config.models
        name = f"{pod.namespace}/{pod.name}"
        mine = [gpu for gpu in report.status.gpus if name in gpu.pods]
        used = sum(process.used_mebibytes for gpu in mine for process in gpu.processes if process.pod == name)
        if pod.gate != "True" or not used or observed.state is None or not observed.state.ready:
            return
        # Labels of nodes have dashes where the driver has spaces.
        product = mine[0].product.replace(" ", "-")
        key = calibration_key(model, options, parallel=config.num_parallel, product=product)
        self.calibration = self.calibration.record(key, used * _MIB)
        self._taken[pod.uid] = pod.ollama_container
        logger.info("load measured", extra={"pod": name, "model": model.name, "mebibytes": used})
