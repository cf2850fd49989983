"""From a wish to a plan."""

from contextlib import suppress
from dataclasses import replace

from ollama_fleet.api.ollamadeployment import TuningSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning import claims, cores
from ollama_fleet.planning.abilities import effective_slots
from ollama_fleet.planning.effective import effective
from ollama_fleet.planning.explanations import reasons
from ollama_fleet.planning.fitting import Fitting, as_it_runs, fit, unsized
from ollama_fleet.planning.footprints import Options, Shapes, server_shape
from ollama_fleet.planning.groups import Common, group, replicas
from ollama_fleet.planning.inventory import Inventory, Silent
from ollama_fleet.planning.models import Collected, collect
from ollama_fleet.planning.objections import heads, objections
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.profiles import PROFILES
from ollama_fleet.planning.remedies import Situation, refusal
from ollama_fleet.planning.request import ModelSetView, PlanRequest
from ollama_fleet.planning.rooms import House, Wish
from ollama_fleet.planning.running import Running, Want, running, waiting
from ollama_fleet.planning.scheduler import ServerShape
from ollama_fleet.planning.versions import DEFAULT, Version
from ollama_fleet.sizing.gguf import InvalidHeader
from ollama_fleet.sizing.portable import from_document
from ollama_fleet.sizing.shape import ModelShape

_NAMED = 3
"""Silent nodes that the message names."""


def plan_deployment(request: PlanRequest) -> Plan:
    """The plan for one OllamaDeployment. Deterministic: the same request gives the same plan."""
    spec = request.spec
    version = Version.parse(spec.version) if spec.version else DEFAULT
    image = spec.image or request.policy.image(version)
    collected = collect(request)
    problems = (*objections(spec, version), *collected.problems)
    if problems:
        return Plan(version=str(version), image=image, problems=problems)
    return _Planner(request, version, image, collected).plan()


class _Planner:
    """One plan in the making."""

    def __init__(self, request: PlanRequest, version: Version, image: str, collected: Collected) -> None:
        wants = {want.model.name: want for want in collected.wants.values()}
        tuning, gpu = request.spec.tuning or TuningSpec(), request.spec.hardware.gpu
        self.request, self.version, self.image, self.tuning = request, version, image, tuning
        self.conflicts = collected.conflicts
        known = shapes(request)
        gpus = gpu.count if gpu else 0
        self.wish = Wish(
            wants=wants,
            slots={name: _asked(want, known) for name, want in wants.items()},
            shapes=known,
            options=Options.of(tuning, version=version, gpus=gpus, measured=request.measured),
            parallel=tuning.num_parallel,
            kv_type=tuning.kv_cache_type,
            spread=tuning.sched_spread,
        )
        self.running: dict[str, Running] = running(request.previous, wants, request.spec, generation=version.generation)

    def plan(self) -> Plan:
        problems = tuple(heads(self.wish))
        if problems:
            return self._stuck(problems)
        unknown = ServerShape(max(1, self.wish.options.gpus), 0, 0, self.version.generation)
        house = House(self.wish, unknown, self.running)
        kept = as_it_runs(house)
        if kept is not None:
            return self._finish(house, kept, None)
        found = self.request.survey() if self.request.spec.hardware.gpu else None
        if isinstance(found, Silent):
            return self._stuck((_silent(found),))
        if found is None:
            slots = PROFILES[self.request.spec.profile or "chat"].parallel
            return self._unsized(house, unsized(house, self.request.previous, slots=slots))
        wish = replace(self.wish, options=replace(self.wish.options, product=found.product))
        house = House(wish, server_shape(found, self.tuning, version=self.version), self.running)
        return self._fitted(house, found)

    def _unsized(self, house: House, fitting: Fitting) -> Plan:
        cpu, wish = self.request.spec.hardware.cpu, self.wish
        if cpu:
            refused = tuple(cores.refusals(fitting.groups, wish.shapes, wish.options, memory=cpu.memory))
            if refused:
                return self._stuck(refused)
        return self._finish(house, fitting, None)

    def _fitted(self, house: House, inventory: Inventory) -> Plan:
        previous = self.request.previous
        servers = max(len(previous), inventory.servers // max(1, replicas(self.request.spec)), 1)
        waited = waiting(previous, house.wish.wants)
        fitting = fit(house, previous, servers=servers, waiting=waited)
        situation = Situation(house, fitting, inventory, servers=servers)
        left_out = tuple(refusal(name, situation) for name in fitting.left_out)
        before = {model.name for group in previous for model in group.config.models}
        if not fitting.groups or before & set(fitting.left_out):
            # A wish with which a running model would lose its place changes nothing.
            return self._stuck(left_out)
        return self._finish(house, fitting, inventory, left_out)

    def _finish(
        self, house: House, fitting: Fitting, inventory: Inventory | None, left_out: tuple[Problem, ...] = ()
    ) -> Plan:
        problems = tuple(claims.objections(self.request, groups=len(fitting.groups)))
        if problems:
            return self._stuck(problems)
        wish = house.wish
        common = Common(
            request=self.request,
            version=self.version,
            image=self.image,
            shapes=wish.shapes,
            options=wish.options,
            wishes={name: want.slots for name, want in wish.wants.items()},
            waiting={name: wish.wants[name].key for name in fitting.left_out},
            inventory=inventory,
        )
        groups = tuple(
            group(common, name, fitted, reasons(wish, fitted, sized=bool(inventory)))
            for name, fitted in fitting.groups.items()
        )
        return Plan(
            version=str(self.version),
            image=self.image,
            groups=groups,
            left_out=(*self.conflicts, *left_out),
            effective=effective(common, groups),
        )

    def _stuck(self, problems: tuple[Problem, ...]) -> Plan:
        return Plan(version=str(self.version), image=self.image, problems=problems)


def _asked(want: Want, shapes: Shapes) -> int:
    """Slots that the model asks for and can have; 0 for as many as fit."""
    one = effective_slots(shapes.get(want.model.name), want.slots or want.model.parallel)
    return 0 if want.slots == 0 and one > 1 else one


def shapes(request: PlanRequest) -> Shapes:
    """The models whose headers are known and make sense, by served name; of two with the same one the first counts."""
    views = (view for view in reversed([*request.model_sets.values()]) if isinstance(view, ModelSetView))
    found: dict[str, ModelShape] = {}
    for model in (model for view in views for model in view.status.models):
        if model.header:
            with suppress(InvalidHeader):
                found[model.name] = from_document(model.header)
    return found


def _silent(found: Silent) -> Problem:
    more = f" and {len(found.nodes) - _NAMED} more" if len(found.nodes) > _NAMED else ""
    return Problem(
        Reason.REPORT_STALE,
        f"What is free on the GPUs of {', '.join(found.nodes[:_NAMED])}{more} is not known: the NodeVRAMReport does "
        "not move. Wait half a minute after the operator's start; else check the agent there, or delete the report if "
        "the agent was removed",
        terminal=False,
    )
