"""What the groups of OllamaDeployments are held to by policy ``VRAM``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.ollamadeployment import TuningSpec
from ollama_fleet.planning.expectations import Expectation, expect
from ollama_fleet.planning.footprints import Options
from ollama_fleet.planning.groups import readiness_policy
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import shapes
from ollama_fleet.planning.request import PlanRequest, PreviousGroup
from ollama_fleet.planning.versions import Version


def options_of(request: PlanRequest, plan: Plan) -> dict[str, Options]:
    """How the groups run: as they are planned, or as an earlier plan noted while the wish cannot be planned."""
    if plan.problems:
        return {group.name: _noted(request, group) for group in request.previous}
    return {group.name: group.options for group in plan.groups}


@dataclass(slots=True)
class Expectations:
    """Remembers what the last good plan promised: an edit that cannot be planned lowers nothing."""

    _promised: dict[str, dict[str, Expectation]] = field(default_factory=dict)
    """By uid of the OllamaDeployment, then by group."""

    def of(
        self,
        uid: str,
        request: PlanRequest,
        plan: Plan,
        in_force: Mapping[str, GroupConfig],
        options: Mapping[str, Options],
    ) -> Mapping[str, Expectation]:
        """By group that runs, with its options; empty without policy ``VRAM``."""
        if readiness_policy(request.spec) != "VRAM":
            self._promised.pop(uid, None)
            return {}
        promised, known = self._promised.setdefault(uid, {}), shapes(request)
        for name in in_force.keys() & options.keys():
            if not plan.problems or name not in promised:
                promised[name] = expect(in_force[name], known, options[name])
        return self.kept(uid, in_force)

    def kept(self, uid: str, in_force: Mapping[str, GroupConfig]) -> Mapping[str, Expectation]:
        """What was promised of the groups that run; empty without policy ``VRAM``."""
        promised = self._promised.get(uid, {})
        return {name: promised[name] for name in in_force if name in promised}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an OllamaDeployment that is gone."""
        self._promised.pop(uid, None)


def _noted(request: PlanRequest, group: PreviousGroup) -> Options:
    gpu, record = request.spec.hardware.gpu, group.record
    options = Options.of(
        request.spec.tuning or TuningSpec(),
        version=Version.parse(group.config.ollama_version),
        gpus=record.gpus or (gpu.count if gpu else 0),
        product=record.product,
        measured=request.measured,
    )
    return replace(options, kv_type=record.kv_type)
