"""A load is measured once, kept in one ConfigMap, and counts in the next plan."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.state import ModelPhase, SidecarState
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


def measurements(api: Api, *, fresh: bool = True, **changes: Any) -> Measurements:
    found = status(product="NVIDIA L4", **changes)
    return Measurements(api, "fleet", Told(Report(found, fresh=fresh)))  # type: ignore[arg-type]


def group(
    config: GroupConfig = CONFIG,
    *,
    gate: str = "True",
    container: str = "c1",
    state: SidecarState = STATE,
    parallel: str = "4",
    updated: int = 1,
) -> list[ObservedGroup]:
    seen = replace(pod(gate=gate), ollama_container=container, environment={"OLLAMA_NUM_PARALLEL": parallel})
    told = state.model_copy(update={"config_hash": config.hash()})
    env = [{"name": "OLLAMA_NUM_PARALLEL", "value": "4"}]
    deployment = {
        "metadata": {"generation": 2},
        "spec": {"template": {"spec": {"containers": [{"name": "ollama", "env": env}]}}},
        "status": {"observedGeneration": 2, "replicas": 1, "updatedReplicas": updated},
    }
    return [ObservedGroup("g0", deployment, pods=(ObservedPod(seen, state=told),))]


def take(made: Measurements, groups: list[ObservedGroup], config: GroupConfig = CONFIG) -> int:
    made.take(groups, {"g0": config}, {"g0": OPTIONS})
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
    assert take(measurements(Api(), sizeVram=2**30), group()) == 0, "a part of it is in system memory"
    assert take(measurements(Api()), group(TWO), TWO) == 0, "nothing says which model the process serves"


WEIGHTS = {"chat": "sha256:" + "1" * 64, "coder": "sha256:" + "2" * 64}
TWO = CONFIG.model_copy(
    update={"models": tuple(CONFIG.models[0].model_copy(update={"name": name}) for name in WEIGHTS)}
)


def test_models_of_one_server_are_told_apart_by_the_weights_of_their_processes() -> None:
    report = status(product="NVIDIA L4")
    (model,), (gpu,), (process,) = report.models, report.gpus, report.gpus[0].processes
    models = [model.model_copy(update={"name": name, "weights": digest}) for name, digest in WEIGHTS.items()]
    sizes = dict(zip(WEIGHTS.values(), (5000, 900), strict=True))
    gpus = [
        gpu.model_copy(
            update={
                "uuid": uuid,
                "processes": [
                    process.model_copy(update={"weights": digest, "used_mebibytes": sizes[digest]}) for digest in on
                ],
            }
        )
        for uuid, on in (("GPU-1", list(sizes)), ("GPU-2", [WEIGHTS["chat"]]))
    ]
    told = report.model_copy(update={"models": models, "gpus": gpus})
    made = Measurements(Api(), "fleet", Told(Report(told, fresh=True)))  # type: ignore[arg-type]
    assert take(made, group(TWO), TWO) == 2
    found = {(key.gpus, value.high // 2**20) for key, value in made.calibration.entries.items()}
    assert found == {(2, 10000), (1, 900)}


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        ("llama runner process has terminated: cudaMalloc failed: out of memory", True),
        ("llama-server process has terminated: error: unable to allocate CUDA0 buffer", True),
        ("not in memory after 600 s", False),
    ],
)
def test_a_load_without_room_raises_the_reserve_once_per_start_of_ollama(message: str, *, counts: bool) -> None:
    (model,) = STATE.models
    failed = STATE.model_copy(
        update={"models": (model.model_copy(update={"phase": ModelPhase.FAILED, "message": message}),), "ready": False}
    )
    made = measurements(Api())
    for _ in range(3):
        take(made, group(gate="False", state=failed))
    assert sum(value.out_of_memory for value in made.calibration.entries.values()) == counts
    take(made, group(gate="False", state=failed, container="c2"))
    assert sum(value.out_of_memory for value in made.calibration.entries.values()) == 2 * counts


def out_of_memory() -> SidecarState:
    (model,) = STATE.models
    failed = model.model_copy(update={"phase": ModelPhase.FAILED, "message": "cudaMalloc failed: out of memory"})
    return STATE.model_copy(update={"models": (failed,), "ready": False})


@pytest.mark.parametrize(
    "server", [{"parallel": "16", "updated": 0}, {"config": TWO}], ids=["environment", "configuration"]
)
def test_servers_of_an_older_plan_say_nothing_of_the_new_one(server: dict[str, Any]) -> None:
    made = measurements(Api())
    take(made, group(**server))
    take(made, group(state=out_of_memory(), **server))
    assert made.calibration.entries == {}


def test_in_a_rollout_only_failures_count() -> None:
    """Where versions differ alone, nothing tells the servers apart; a new one without room ends no rollout."""
    made = measurements(Api())
    assert take(made, group(updated=0)) == 0
    take(made, group(state=out_of_memory(), updated=0))
    assert [value.out_of_memory for value in made.calibration.entries.values()] == [1]


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
    processes = [{"pid": 7, "usedMebibytes": 6000, "pod": "ns/chat-0"}]
    made = measurements(Api(), processes=processes, name="llama3.1:8b")
    take(made, group(guessed.config), guessed.config)
    again = replace(wish(LLAMA, inventory=inventory), measured=made.calibration)
    planned = plan_deployment(again).groups[0].planned["llama3.1:8b"]
    assert planned == pytest.approx(6000 * 2**20 * 1.02, rel=0.01)
    elsewhere = replace(wish(LLAMA, inventory=replace(L4, product="NVIDIA-T4")), measured=made.calibration)
    assert plan_deployment(elsewhere).groups[0].planned == guessed.planned
