"""What stands in a report, and how often it is written."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from ollama_fleet.agent.gpu import Device, DeviceState, GpuProcess, GpuView, Memory
from ollama_fleet.agent.pods import Pod
from ollama_fleet.agent.report import ATTRIBUTED, MAX_ENTRIES, MAX_PROCESSES, READY, Observation, status
from ollama_fleet.agent.sidecars import resident
from ollama_fleet.agent.writing import LEAST_SECONDS, Writing, urgent
from ollama_fleet.api.common import Condition
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus, ResidentModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState

MIB = 2**20
GIB = 2**30
NOW = "2026-01-01T00:00:00Z"
DIGEST = f"sha256:{'a' * 64}"
MODEL = ResidentModel(pod="team/chat-0", name="chat", digest=DIGEST, size=5 * GIB, size_vram=5 * GIB)
MODELS = {MODEL.pod: (MODEL,)}


def device(index: int = 0, *, used: int = GIB, processes: Iterable[GpuProcess] = (), total: int = 80 * GIB) -> Device:
    memory = Memory(total=total, reserved=551 * MIB, used=used, free=total - 551 * MIB - used)
    return Device(f"GPU-{index}", index, "NVIDIA H100", memory, tuple(processes))


def observation(*devices: Device, **reasons: str) -> Observation:
    states = tuple(DeviceState(one, reasons.get(one.uuid.replace("-", "_"), "")) for one in devices)
    return Observation(GpuView("580.1", "", states), 128 * GIB)


def build(seen: Observation, *, previous: Iterable[Condition] = (), now: str = NOW) -> NodeVRAMReportStatus:
    return status(seen, previous=list(previous), generation=3, now=now)


def condition(report: NodeVRAMReportStatus, kind: str = READY) -> Condition:
    return next(one for one in report.conditions if one.type == kind)


def test_figures_are_mebibytes_and_pods_are_named() -> None:
    processes = [GpuProcess(11, 300 * MIB), GpuProcess(12, None), GpuProcess(13, 700 * MIB + 5)]
    seen = replace(
        observation(device(processes=processes)),
        holders={"GPU-0": ("team/chat-0",)},
        process_pods={13: "team/chat-0"},
        models=MODELS,
    )
    report = build(seen)
    (gpu,) = report.to_wire()["gpus"]  # type: ignore[misc]
    assert gpu == {
        "uuid": "GPU-0",
        "index": 0,
        "product": "NVIDIA H100",
        "healthy": True,
        "reason": "",
        "totalMebibytes": 81920,
        "reservedMebibytes": 551,
        "usedMebibytes": 1024,
        "freeMebibytes": 80345,
        "memorySource": "nvml",
        "pods": ["team/chat-0"],
        "processes": [
            {"pid": 13, "usedMebibytes": 700, "pod": "team/chat-0"},
            {"pid": 11, "usedMebibytes": 300, "pod": ""},
        ],
    }
    assert report.models == [MODEL]
    assert (report.summary.gpus, report.summary.used, report.summary.models) == ("1/1", "1.0/80.0 GiB", 1)
    assert (report.memory_mebibytes, report.observed_generation, report.driver_version) == (131072, 3, "580.1")


def test_a_node_without_gpus_reports_its_memory() -> None:
    report = build(Observation(GpuView(), 16 * GIB))
    assert (report.summary.gpus, report.summary.used, report.memory_mebibytes) == ("0/0", "", 16384)
    ready = condition(report)
    assert (ready.status, ready.reason) == ("True", Reason.NO_GPU_FOUND)
    assert "16.0 GiB" in ready.message


def test_sick_gpus_are_named_in_the_condition() -> None:
    lost = {f"GPU_{index}": "GPULost" for index in range(5)}
    ready = condition(build(observation(*(device(index) for index in range(8)), **lost)))
    assert (ready.status, ready.reason) == ("False", Reason.GPU_UNHEALTHY)
    assert ready.message.startswith("5 of 8 GPUs cannot take work: GPU-0 (GPULost), GPU-1 (GPULost), GPU-2 (GPULost)")
    assert "and 2 more" in ready.message


def test_a_driver_that_went_away() -> None:
    ready = condition(build(Observation(GpuView(problem="Driver/library version mismatch"), GIB)))
    assert (ready.status, ready.reason) == ("False", Reason.DRIVER_FAILED)
    assert "version mismatch" in ready.message


def test_what_the_agent_cannot_see_it_says() -> None:
    seen = replace(observation(device()), blind=Reason.HOST_PID_OFF, blind_message="no hostPID")
    attributed = condition(build(seen), ATTRIBUTED)
    assert (attributed.status, attributed.reason, attributed.message) == ("False", Reason.HOST_PID_OFF, "no hostPID")
    assert condition(build(observation(device())), ATTRIBUTED).status == "True"


def test_transition_times_move_only_with_the_status() -> None:
    first = build(observation(device()))
    later = build(observation(device(used=2 * GIB)), previous=first.conditions, now="2026-01-01T01:00:00Z")
    assert condition(later).last_transition_time == NOW
    lost = build(observation(device(), GPU_0="GPULost"), previous=later.conditions, now="2026-01-01T02:00:00Z")
    assert condition(lost).last_transition_time == "2026-01-01T02:00:00Z"
    assert condition(lost, ATTRIBUTED).last_transition_time == NOW


def test_sizes_are_bounded() -> None:
    processes = [GpuProcess(pid, pid * MIB) for pid in range(1, 201)]
    models = tuple(MODEL.model_copy(update={"name": f"m{n:04}"}) for n in range(65))
    seen = Observation(
        GpuView("1", "", tuple(DeviceState(device(n, processes=processes)) for n in range(200))),
        GIB,
        holders={"GPU-0": tuple(f"team/pod-{n}" for n in range(100))},
        models={f"team/chat-{n}": models for n in range(10)},
    )
    report = build(seen)
    assert (len(report.gpus), len(report.models), len(report.gpus[0].pods)) == (128, 512, MAX_ENTRIES // 128)
    assert [one.pid for one in report.gpus[0].processes] == list(range(200, 200 - MAX_ENTRIES // 128, -1))


def test_pods_with_many_models_or_processes_take_no_place_of_others() -> None:
    """Whoever may make pods of their own can make them look like servers."""
    crowd = {
        f"other/p{n}": tuple(MODEL.model_copy(update={"pod": f"other/p{n}", "name": f"m{m}"}) for m in range(64))
        for n in range(9)
    }
    greedy = [GpuProcess(pid, GIB) for pid in range(1, 101)]
    seen = replace(
        observation(device(processes=[*greedy, GpuProcess(200, MIB)])),
        models={**crowd, **MODELS},
        process_pods={**dict.fromkeys(range(1, 101), "other/p0"), 200: "team/chat-0"},
    )
    report = build(seen)
    assert [model for model in report.models if model.pod == "team/chat-0"] == [MODEL]
    assert len(report.models) == 512
    (gpu,) = report.gpus
    assert [one.pid for one in gpu.processes if one.pod == "team/chat-0"] == [200]
    assert len(gpu.processes) == MAX_PROCESSES


def test_only_pods_of_which_everything_is_told_are_heard() -> None:
    many = tuple(MODEL.model_copy(update={"pod": "team/many", "name": f"m{n}"}) for n in range(65))
    report = build(replace(observation(device()), models={**MODELS, "team/empty": (), "team/many": many}))
    assert report.heard == ["team/chat-0", "team/empty"]
    assert len(report.models) == 65, "64 of them"


def test_eight_gpus_show_sixty_four_processes_each() -> None:
    processes = [GpuProcess(pid, pid * MIB) for pid in range(1, 201)]
    report = build(observation(*(device(n, processes=processes) for n in range(8))))
    assert [len(gpu.processes) for gpu in report.gpus] == [MAX_PROCESSES] * 8


def test_the_largest_report_fits_into_the_api_server() -> None:
    name = f"{'n' * 63}/{'p' * 100}"
    processes = [GpuProcess(2**31 - pid, GIB) for pid in range(100)]
    longest = ModelState(
        name="m" * 128,
        phase=ModelPhase.WARM,
        digest=DIGEST,
        weights=DIGEST,
        size=2**53 - 1,
        size_vram=2**53 - 1,
        context_length=2**31 - 1,
        expires_at="9" * 40,
    )
    state = SidecarState(sequence=1, config_hash="", ready=True, models=(longest,))
    seen = Observation(
        GpuView("1", "", tuple(DeviceState(device(n, processes=processes)) for n in range(128))),
        GIB,
        holders={f"GPU-{n}": tuple(name for _ in range(100)) for n in range(128)},
        process_pods={process.pid: name for process in processes},
        process_weights={process.pid: DIGEST for process in processes},
        models={f"{name}{n}": resident(Pod("u", f"{name}{n}"), state) for n in range(512)},
    )
    assert len(json.dumps(build(seen).to_wire())) < 1_200_000


IDLE = build(observation(device(0), device(1)))


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (observation(device(0), device(1)), ""),
        (observation(device(0, used=GIB + 256 * MIB), device(1)), ""),
        (observation(device(0, used=GIB + 1638 * MIB), device(1)), ""),
        (observation(device(0, used=GIB + 1640 * MIB), device(1)), "memory"),
        (observation(device(0), device(1), GPU_1="XID 79"), "health"),
        (observation(device(0)), "health"),
        (observation(device(0), device(1), device(2)), "health"),
        (replace(observation(device(0), device(1)), models=MODELS), "models"),
        (replace(observation(device(0), device(1)), models={MODEL.pod: ()}), "models"),
        (replace(observation(device(0), device(1)), holders={"GPU-1": ("a/b",)}), "pods"),
        (observation(device(0, processes=[GpuProcess(1, 9 * MIB)]), device(1)), "pods"),
        (replace(observation(device(0), device(1)), blind=Reason.HOST_PID_OFF), "health"),
    ],
)
def test_what_cannot_wait(seen: Observation, why: str) -> None:
    assert urgent(IDLE, build(seen)) == why


def test_small_gpus_move_by_256_mebibytes() -> None:
    before = build(observation(device(total=8 * GIB)))
    assert urgent(before, build(observation(device(total=8 * GIB, used=GIB + 256 * MIB)))) == ""
    assert urgent(before, build(observation(device(total=8 * GIB, used=GIB + 257 * MIB)))) == "memory"


def test_a_model_that_falls_back_to_the_cpu_cannot_wait() -> None:
    before = build(replace(observation(device()), models=MODELS))
    fallen = MODEL.model_copy(update={"size_vram": 0})
    assert urgent(before, build(replace(observation(device()), models={fallen.pod: (fallen,)}))) == "models"


class Writer:
    """Looks once a second, as the agent does, at a server that answers at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.times: list[float] = []
        self.reasons: list[str] = []
        self.refuse = False
        self.writing = Writing(clock=lambda: self.now, rng=random.Random(7))

    def look(self, seen: NodeVRAMReportStatus, *, seconds: float = 1.0) -> None:
        why = self.writing.due(seen)
        if why:
            self.times.append(self.now)
            self.reasons.append(why)
            self.writing.begin(seen)
            self.writing.failed() if self.refuse else self.writing.succeeded()
        self.now += seconds


def test_an_idle_node_writes_two_heartbeats_a_minute() -> None:
    writer = Writer()
    for _ in range(3600):
        writer.look(IDLE)
    assert writer.reasons[0] == "first"
    assert set(writer.reasons[1:]) == {"heartbeat"}
    assert 110 <= len(writer.times) <= 130
    gaps = {after - before for before, after in zip(writer.times, writer.times[1:], strict=False)}
    assert min(gaps) >= 27
    assert max(gaps) <= 34
    assert len(gaps) > 3


def test_a_busy_node_writes_at_most_every_two_seconds() -> None:
    writer = Writer()
    busy = [build(observation(device(0, used=n % 2 * 40 * GIB), device(1))) for n in range(2)]
    for n in range(600):
        writer.look(busy[n % 3 % 2], seconds=0.25)
    gaps = [after - before for before, after in zip(writer.times, writer.times[1:], strict=False)]
    assert min(gaps) >= LEAST_SECONDS
    assert len(writer.times) > 30


def test_a_change_is_written_at_the_next_look() -> None:
    writer = Writer()
    for _ in range(10):
        writer.look(IDLE)
    writer.look(build(observation(device(0), device(1), GPU_0="GPULost")))
    assert (writer.times, writer.reasons) == ([1000.0, 1010.0], ["first", "health"])


def test_changes_too_small_to_be_told_do_not_add_up_unseen() -> None:
    writer = Writer()
    for n in range(25):
        writer.look(build(observation(device(0, used=GIB + n * 100 * MIB), device(1))))
    assert writer.reasons == ["first", "memory"]


def test_never_two_writes_at_a_time() -> None:
    writing = Writing(clock=lambda: 0.0)
    assert writing.due(IDLE) == "first"
    writing.begin(IDLE)
    assert writing.due(build(observation(device(0), GPU_0="GPULost"))) == ""
    with pytest.raises(RuntimeError):
        writing.begin(IDLE)


def test_a_server_that_refuses_is_asked_less_and_less() -> None:
    writer = Writer()
    writer.refuse = True
    for _ in range(600):
        writer.look(IDLE)
    gaps = [after - before for before, after in zip(writer.times, writer.times[1:], strict=False)]
    assert gaps[0] <= 4
    assert all(gap <= 31 for gap in gaps)
    assert len(writer.times) < 45
    writer.refuse = False
    for _ in range(31):
        writer.look(IDLE)
    assert writer.writing.due(IDLE) == ""
