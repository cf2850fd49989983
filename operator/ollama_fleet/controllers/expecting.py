"""What the groups of OllamaDeployments are held to by policy ``VRAM``."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.ollamadeployment import TuningSpec
from ollama_fleet.planning.expectations import Expectation, expect
from ollama_fleet.planning.footprints import Options
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import readiness_policy, shapes
from ollama_fleet.planning.request import PlanRequest
from ollama_fleet.planning.versions import Version


def options_of(request: PlanRequest, version: str) -> Options:
    """How the servers of a deployment on GPUs run with an Ollama version."""
    gpu, found = request.spec.hardware.gpu, request.inventory
    return Options.of(
        request.spec.tuning or TuningSpec(),
        version=Version.parse(version),
        gpus=gpu.count if gpu else 0,
        product=found.product if found else "",
        measured=request.measured,
    )


@dataclass(slots=True)
class Expectations:
    """Remembers what the last good plan promised: an edit that cannot be planned lowers nothing."""

    _promised: dict[str, dict[str, Expectation]] = field(default_factory=dict)
    """By uid of the OllamaDeployment, then by group."""

    def of(
        self, uid: str, request: PlanRequest, plan: Plan, in_force: Mapping[str, GroupConfig]
    ) -> Mapping[str, Expectation]:
        """By group that runs; empty without policy ``VRAM``."""
        if readiness_policy(request.spec) != "VRAM" or not plan.version:
            self._promised.pop(uid, None)
            return {}
        promised = self._promised.setdefault(uid, {})
        known, options = shapes(request), options_of(request, plan.version)
        for name, config in in_force.items():
            if not plan.problems or name not in promised:
                promised[name] = expect(config, known, options)
        return {name: promised[name] for name in in_force}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an OllamaDeployment that is gone."""
        self._promised.pop(uid, None)
