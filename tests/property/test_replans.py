"""Over any sequence of edits, nodes that come and go, foreign use and broken GPUs: no plan over-commits what was known
when it was made, nothing that runs changes without an edit that asks for it, and what was planned is planned again.

Plans depend on their history where they must: who was there first keeps the server and its slots, so the same wish can
end in other groups than it would from nothing. How the wish is written down never counts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec, TuningSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.render import deployment
from ollama_fleet.planning.footprints import footprint, server_shape
from ollama_fleet.planning.inventory import Inventory, Silent, survey
from ollama_fleet.planning.packing import fits
from ollama_fleet.planning.placement import GPUView, NodeView
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest, PreviousGroup
from ollama_fleet.planning.scheduler import seat
from ollama_fleet.planning.versions import Version
from ollama_fleet.sizing.portable import to_document
from tests.support.plans import previous, shape_of

MIB = 2**20
FAMILIES = ("llama3.2:1b", "llama3.1:8b", "qwen2.5:7b", "gemma3:12b", "phi4:14b", "qwen2.5:32b")
HEADERS = {family: to_document(shape_of(family)) for family in FAMILIES}
CARDS = {"NVIDIA-L4": 23034, "NVIDIA-A100-SXM4-40GB": 40960, "NVIDIA-A100-SXM4-80GB": 81920}
OWNER = Owner("ns", "chat", "uid")


@dataclass(frozen=True)
class Node:
    """A node with GPUs of one product."""

    product: str
    foreign: tuple[int, ...]
    """MiB by GPU."""
    healthy: tuple[bool, ...]
    agent: bool
    silent: bool = False

    def view(self, name: str) -> NodeView:
        memory = CARDS[self.product]
        cards = tuple(
            GPUView(f"GPU-{number}", self.product, memory * MIB, 500 * MIB, foreign * MIB, healthy=healthy)
            for number, (foreign, healthy) in enumerate(zip(self.foreign, self.healthy, strict=True))
        )
        return NodeView(
            name,
            usable=True,
            labels={"nvidia.com/gpu.product": self.product, "nvidia.com/gpu.memory": str(memory)},
            allocatable={"nvidia.com/gpu": Decimal(len(cards))},
            gpus=cards if self.agent and not self.silent else (),
            silent=self.agent and self.silent,
        )


@dataclass
class Look:
    """What the nodes say now; remembers what it was asked."""

    spec: OllamaDeploymentSpec
    nodes: Sequence[NodeView]
    asked: int = 0

    def __call__(self) -> Inventory | Silent | None:
        self.asked += 1
        return survey(self.spec, self.nodes)


class Replans(RuleBasedStateMachine):
    """One deployment in a cluster that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, Any]] = {}
        self.families: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.tuning: dict[str, Any] = {}
        self.hardware: dict[str, Any] = {}
        """Beside the count of GPUs."""
        self.chosen = self.choices()
        """What the plan in force was made with."""
        self.count = 1
        self.running: tuple[PreviousGroup, ...] = ()
        self.plan: Plan | None = None
        """In force; None while nothing runs."""
        self.pending = False
        """An edit could not be planned yet."""

    # What people do.

    @initialize(product=st.sampled_from(sorted(CARDS)), gpus=st.integers(1, 4), count=st.integers(1, 2))
    def begin(self, product: str, gpus: int, count: int) -> None:
        self.count = count
        self.nodes["n0"] = Node(product, (0,) * gpus, (True,) * gpus, agent=True)

    @rule(
        wishes=st.lists(
            st.fixed_dictionaries(
                {
                    "family": st.sampled_from(FAMILIES),
                    "contextLength": st.sampled_from([2048, 8192, 32768]),
                    "parallel": st.sampled_from([None, 1, 4, 8]),
                    "residency": st.sampled_from(["Pinned", "Pinned", "OnDemand"]),
                    "priority": st.integers(0, 2),
                }
            ),
            min_size=1,
            max_size=4,
        )
    )
    def add_models(self, wishes: list[dict[str, Any]]) -> None:
        for wish in wishes:
            name = f"m{len(self.families)}"
            entry = {key: value for key, value in wish.items() if key != "family" and value is not None}
            self.models[name] = {"name": name, **entry}
            self.families[name] = wish["family"]
        self.edited()

    @precondition(lambda self: len(self.models) > 1)
    @rule(data=st.data())
    def remove_model(self, data: st.DataObject) -> None:
        del self.models[data.draw(st.sampled_from(sorted(self.models)))]
        self.edited()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), context=st.sampled_from([1024, 4096, 16384, 65536]))
    def change_context(self, data: st.DataObject, context: int) -> None:
        self.models[data.draw(st.sampled_from(sorted(self.models)))]["contextLength"] = context
        self.edited()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), priority=st.integers(0, 2))
    def change_priority(self, data: st.DataObject, priority: int) -> None:
        self.models[data.draw(st.sampled_from(sorted(self.models)))]["priority"] = priority
        self.edited()

    @precondition(lambda self: self.models)
    @rule(
        tuning=st.sampled_from(
            [
                *({}, {"numParallel": 2}, {"kvCacheType": "q8_0"}, {"schedSpread": True}),
                *({"flashAttention": False}, {"gpuOverhead": "8Gi"}),
            ]
        )
    )
    def tune(self, tuning: dict[str, Any]) -> None:
        self.tuning = tuning
        self.edited()

    @precondition(lambda self: self.models)
    @rule(hardware=st.sampled_from([{}, {"minMemory": "40Gi"}, *({"products": [product]} for product in CARDS)]))
    def choose_gpus(self, hardware: dict[str, Any]) -> None:
        self.hardware = hardware
        self.edited()

    # What happens to nodes.

    @rule(product=st.sampled_from(sorted(CARDS)), gpus=st.integers(1, 4), agent=st.booleans())
    def node_joins(self, product: str, gpus: int, *, agent: bool) -> None:
        name = f"n{len(self.nodes)}"
        self.nodes[name] = Node(product, (0,) * gpus, (True,) * gpus, agent)
        self.nothing_moves()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def node_goes(self, data: st.DataObject) -> None:
        del self.nodes[data.draw(st.sampled_from(sorted(self.nodes)))]
        self.nothing_moves()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), silent=st.booleans())
    def agent_dies_or_returns(self, data: st.DataObject, *, silent: bool) -> None:
        self.change_node(data, silent=silent)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), used=st.sampled_from([0, 700, 4000, 20000]))
    def others_use_memory(self, data: st.DataObject, used: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        gpu = data.draw(st.integers(0, len(self.nodes[name].foreign) - 1))
        foreign = tuple(used if n == gpu else old for n, old in enumerate(self.nodes[name].foreign))
        self.nodes[name] = replace(self.nodes[name], foreign=foreign)
        self.nothing_moves()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), healthy=st.booleans())
    def gpu_fails_or_recovers(self, data: st.DataObject, *, healthy: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        gpu = data.draw(st.integers(0, len(self.nodes[name].healthy) - 1))
        states = tuple(healthy if n == gpu else old for n, old in enumerate(self.nodes[name].healthy))
        self.nodes[name] = replace(self.nodes[name], healthy=states)
        self.nothing_moves()

    def change_node(self, data: st.DataObject, **changes: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        self.nodes[name] = replace(self.nodes[name], **changes)
        self.nothing_moves()

    # What must hold.

    def request(self, *, backwards: bool = False) -> PlanRequest:
        entries = sorted(self.models.values(), key=lambda entry: entry["name"], reverse=backwards)
        spec = ModelSetSpec.model_validate({"models": entries})
        resolved = [
            ResolvedModel(
                name=model.name,
                reference=f"registry.test/library/{self.families[model.name]}",
                digest=f"sha256:{int(model.name[1:]):064x}",
                size=HEADERS[self.families[model.name]].file_bytes,
                ready=True,
                header=HEADERS[self.families[model.name]],
            )
            for model in spec.models
        ]
        view = ModelSetView("set", spec, ModelSetStatus(observed_generation=1, models=resolved), generation=1)
        hardware = {"gpu": {"count": self.count, **self.hardware}}
        wish = {"modelSets": [{"name": "set"}], "hardware": hardware, "tuning": self.tuning}
        asked = OllamaDeploymentSpec.model_validate(wish)
        names = sorted(self.nodes, reverse=backwards)
        look = Look(asked, [self.nodes[name].view(name) for name in names])
        return PlanRequest("ns", "chat", asked, {"set": view}, ImagePolicy("fleet"), previous=self.running, survey=look)

    def choices(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all servers have in common."""
        return self.tuning, self.hardware

    @staticmethod
    def sized_for(choices: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the choices, what changes how much of a GPU there is and how much a model takes of it."""
        tuning, hardware = choices
        return {key: tuning[key] for key in tuning.keys() & {"flashAttention", "gpuOverhead"}}, hardware

    def edited(self) -> None:
        """Plan for a changed wish."""
        request = self.request()
        plan = plan_deployment(request)
        assert plan == plan_deployment(self.request(backwards=True)), "how it is written down does not count"
        for problem in (*plan.problems, *plan.left_out):
            assert any(character.isdigit() for character in problem.message)
        self.pending = bool(plan.problems)
        if plan.problems:
            assert plan.groups == ()
            self.nobody_who_runs_is_in_the_way(plan)
            return
        self.everybody_has_one_place(plan)
        self.running_ones_stay(plan)
        known = request.survey()
        if isinstance(known, Inventory):
            for group in plan.groups:
                self.fits_what_was_known(group, known, request)
        self.plan, self.running, self.chosen = plan, previous(plan), self.choices()
        assert plan_deployment(self.request()).groups == plan.groups, "what was planned is planned again"

    def nothing_moves(self) -> None:
        """Nodes are none of a running plan's business."""
        if not self.models:
            return
        if self.plan is None or self.pending:
            self.edited()
            return
        request = self.request()
        after = plan_deployment(request)
        newcomers = {entry["name"] for entry in self.models.values()} - self.placed(self.plan)
        if newcomers:
            # Somebody still waits for a place, and may find one now.
            self.edited()
            return
        assert after.groups == self.plan.groups
        assert isinstance(request.survey, Look)
        assert request.survey.asked == 0

    def nobody_who_runs_is_in_the_way(self, plan: Plan) -> None:
        """What runs as it is wished for fits, whatever nodes say: it keeps no edit from being planned."""
        refused = {problem.message.split()[0] for problem in plan.problems if problem.reason is Reason.DOES_NOT_FIT}
        for group in self.running if self.choices() == self.chosen else ():
            for model in group.config.models:
                wished = self.models.get(model.name, {})
                same = (model.context_length, model.residency) == (wished.get("contextLength"), wished.get("residency"))
                assert not (same and model.name in refused)

    @staticmethod
    def placed(plan: Plan) -> set[str]:
        return {model.name for group in plan.groups for model in group.config.models}

    def everybody_has_one_place(self, plan: Plan) -> None:
        names = [model.name for group in plan.groups for model in group.config.models]
        left = {problem.message.split()[0] for problem in plan.left_out}
        assert len(names) == len(set(names))
        assert {*names, *left} == set(self.models)
        assert left.isdisjoint(names)
        for group in plan.groups:
            assert all(1 <= model.parallel <= group.config.num_parallel for model in group.config.models)

    def running_ones_stay(self, plan: Plan) -> None:
        """Nobody who runs loses their place; at most one whose own wish did not change is moved."""
        if self.plan is None:
            return
        home = {m.name: (g.name, m) for g in self.plan.groups for m in g.config.models if m.name in self.models}
        now = {model.name: (group.name, model) for group in plan.groups for model in group.config.models}
        assert home.keys() <= now.keys()
        if self.choices() == self.chosen:
            moved = [
                name
                for name, (group, model) in home.items()
                if self.was_moved(model, now[name][1], group, now[name][0])
            ]
            assert len(moved) <= 1
        for group in plan.groups:
            self.restarts_only_if_it_must(group)

    @staticmethod
    def was_moved(before: GroupModel, after: GroupModel, home: str, now: str) -> bool:
        """Whether a model was moved although it takes what it took."""
        taken = [(one.context_length, one.residency) for one in (before, after)]
        return taken[0] == taken[1] and home != now

    def restarts_only_if_it_must(self, group: Group) -> None:
        """The same choices, no more models than the servers were started for: the pod template stays."""
        before = next((one for one in self.plan.groups if one.name == group.name), None) if self.plan else None
        if before is None or group.record.choices != before.record.choices:
            return
        names = {model.name for model in group.config.models}
        pinned = [
            {(m.name, m.manifest_digest) for m in one.config.models if m.residency == "Pinned"}
            for one in (before, group)
        ]
        if names <= {model.name for model in before.config.models} and pinned[0] == pinned[1]:
            live = deployment(before, owner=OWNER, live=None)
            kept = deployment(group, owner=OWNER, live=live)["spec"]["template"]
            assert json.dumps(kept, sort_keys=True) == json.dumps(live["spec"]["template"], sort_keys=True)

    def fits_what_was_known(self, group: Group, inventory: Inventory, request: PlanRequest) -> None:
        """Upper bounds of all models that are in memory at once, on every GPU, for groups that were planned anew."""
        if self.plan is not None and self.sized_for(self.choices()) == self.sized_for(self.chosen):
            before = next((one for one in self.plan.groups if one.name == group.name), None)
            if before is not None and self.asks_no_more(before, group):
                return
        tuning = request.spec.tuning or TuningSpec()
        version = Version.parse(group.config.ollama_version)
        shape = replace(server_shape(inventory, tuning, version=version), spread=group.record.spread)
        prints = {
            model.name: footprint(
                model, shape_of(self.families[model.name]), group.options, parallel=group.config.num_parallel
            )
            for model in group.config.models
        }
        # In this order the sidecar loads them.
        pinned = [prints[model.name] for model in group.config.models if model.residency == "Pinned"]
        assert seat(shape, pinned).misfit is None
        guests = [prints[model.name] for model in group.config.models if model.residency != "Pinned"]
        for beside in ([], *([guest] for guest in guests)):
            seating = fits(shape, pinned, beside)
            assert seating.misfit is None
            assert all(used <= inventory.usable - shape.margin for used in seating.used)

    @staticmethod
    def asks_no_more(before: Group, after: Group) -> bool:
        """The servers run, with these models or more of them: nobody asked whether they fit."""
        held = {(m.name, m.context_length, m.residency) for m in before.config.models}
        same = (before.config.num_parallel, before.record.kv_type) == (after.config.num_parallel, after.record.kv_type)
        return same and {(m.name, m.context_length, m.residency) for m in after.config.models} <= held


TestReplans = Replans.TestCase
TestReplans.settings = settings(max_examples=50, stateful_step_count=20)
