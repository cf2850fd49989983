"""A load is measured once, kept in one ConfigMap, and counts in the next plan."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.controllers.measurements import NAME, Measurements
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.reports import Report
from ollama_fleet.kube import errors
from ollama_fleet.planning.footprints import Options
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.versions import DEFAULT
from tests.unit.test_controllers_vram_gate import CONFIG, STATE, pod, status
from tests.unit.test_planning_fits_models_to_gpus import L4, LLAMA, wish

OPTIONS = Options(DEFAULT, 1)


class Api:
    """Keeps one ConfigMap."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] | None = None
        self.writes = 0
        self.away = False

    async def get(self, *_: Any) -> Any:
        return self.kept

    async def apply(self, wish_: dict[str, Any]) -> Any:
        if self.away:
            raise errors.Unavailable("away")
        self.kept, self.writes = wish_, self.writes + 1
        return wish_


class Told:
    """The report of every node."""

    def __init__(self, report: Report | None) -> None:
        self.report = report

    def of(self, _: str) -> Report | None:
        return self.report


def measurements(api: Api, *, fresh: bool = True, **gpu: Any) -> Measurements:
    found = status(product="NVIDIA L4", **gpu)
    return Measurements(api, "fleet", Told(Report(found, fresh=fresh)))  # type: ignore[arg-type]


def group(*, gate: str = "True", container: str = "c1") -> list[ObservedGroup]:
    seen = replace(pod(gate=gate), ollama_container=container)
    return [ObservedGroup("g0", pods=(ObservedPod(seen, state=STATE),))]


def take(made: Measurements, groups: list[ObservedGroup], config: GroupConfig = CONFIG) -> int:
    made.take(groups, {"g0": config}, OPTIONS)
    return sum(value.count for value in made.calibration.entries.values())


def test_each_start_of_ollama_is_measured_once() -> None:
    made = measurements(Api())
    assert take(made, group()) == 1
    assert take(made, group()) == 1
    assert take(made, group(container="c2")) == 2
    ((key, value),) = made.calibration.entries.items()
    assert (key.gpu, key.gpus, key.ollama) == ("NVIDIA-L4", 1, "0.32")
    assert value.high == 8200 * 2**20


def test_what_is_not_certain_is_not_measured() -> None:
    assert take(measurements(Api(), fresh=False), group()) == 0
    assert take(measurements(Api(), processes=[]), group()) == 0
    assert take(measurements(Api()), group(gate="False")) == 0
    two = CONFIG.model_copy(update={"models": (*CONFIG.models, CONFIG.models[0])})
    assert take(measurements(Api()), group(), two) == 0


async def test_only_what_is_new_is_written_and_another_leader_reads_it() -> None:
    api = Api()
    made = measurements(api)
    await made.load()
    await made.save()
    assert api.writes == 0
    take(made, group())
    api.away = True
    await made.save()
    api.away = False
    await made.save()
    await made.save()
    assert api.writes == 1
    assert api.kept is not None
    assert api.kept["metadata"] == {"name": NAME, "namespace": "fleet"}
    other = measurements(api)
    await other.load()
    assert other.calibration == made.calibration


def test_a_measured_load_counts_in_the_next_plan() -> None:
    inventory = replace(L4, product="NVIDIA-L4")
    guessed = plan_deployment(wish(LLAMA, inventory=inventory)).groups[0]
    made = measurements(Api(), processes=[{"pid": 7, "usedMebibytes": 6000, "pod": "ns/chat-0"}])
    take(made, group(), guessed.config)
    again = replace(wish(LLAMA, inventory=inventory), measured=made.calibration)
    planned = plan_deployment(again).groups[0].planned["llama3.1:8b"]
    assert planned == pytest.approx(6000 * 2**20 * 1.02, rel=0.01)
    elsewhere = replace(wish(LLAMA, inventory=replace(L4, product="NVIDIA-T4")), measured=made.calibration)
    assert plan_deployment(elsewhere).groups[0].planned == guessed.planned
