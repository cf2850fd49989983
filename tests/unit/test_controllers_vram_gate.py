"""Policy VRAM: the node's report must agree, silence proves nothing, and what is written is what changed."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ollama_fleet.api.common import Condition
from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers.demotion import HOLD_SECONDS, PROVE_SECONDS, Demotions
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.pods import PodView, view
from ollama_fleet.controllers.podwriter import PodWriter
from ollama_fleet.controllers.reports import STALE_SECONDS, Report, Reports
from ollama_fleet.controllers.vram import occupancy
from ollama_fleet.kube.informer import Informer
from ollama_fleet.kube.kinds import NODE_VRAM_REPORT
from ollama_fleet.planning.expectations import Expectation

DIGEST = "sha256:" + "a" * 64
GIB = 2**30
CONFIG = GroupConfig(
    namespace="ns",
    deployment="chat",
    group="g0",
    ollama_version="0.32.3",
    models=(GroupModel(name="chat", registry="r", repository="library/chat", manifest_digest=DIGEST),),
)
STATE = SidecarState(
    sequence=1,
    config_hash=CONFIG.hash(),
    ready=True,
    models=(ModelState(name="chat", phase=ModelPhase.WARM, digest=DIGEST, size=8 * GIB, size_vram=8 * GIB),),
)
DRIVER_FAILED = Condition(
    type="Ready", status="False", reason=Reason.DRIVER_FAILED, last_transition_time="2026-01-01T00:00:00Z"
)
EXPECTED = Expectation(planned={"chat": 8 * GIB}, contexts={"chat": 8192})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pod(name: str = "chat-0", *, gate: str = "", reason: str = "", ready: bool = True) -> PodView:
    conditions: list[dict[str, str]] = [{"type": "Ready", "status": "True" if gate == "True" else "False"}]
    if gate:
        conditions.append({"type": "ollamafleet.io/vram-resident", "status": gate, "reason": reason})
    ollama = {"name": "ollama", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    found = view(
        {
            "metadata": {
                "namespace": "ns",
                "name": name,
                "uid": name,
                "labels": {"ollamafleet.io/group": "g0"},
                "annotations": {"ollamafleet.io/config-hash": CONFIG.hash()},
            },
            "spec": {
                "nodeName": "n",
                "containers": [ollama],
                "readinessGates": [{"conditionType": "ollamafleet.io/vram-resident"}],
            },
            "status": {"conditions": conditions},
        }
    )
    return replace(found, ollama_ready=ready, sidecar_running=True)


def status(*, sequence: int = 1, names: tuple[str, ...] = ("chat-0",), **changes: Any) -> NodeVRAMReportStatus:
    """A report in which all is well but for ``changes`` of the GPU and of the first model."""
    of_model = {key: changes.pop(key) for key in ("name", "sizeVram", "digest", "contextLength") if key in changes}
    pods = [f"ns/{name}" for name in names]
    processes = [{"pid": 7, "usedMebibytes": 8200, "pod": reference} for reference in pods]
    gpu = {"uuid": "GPU-1", "index": 0, "pods": pods, "healthy": True, "processes": processes, **changes}
    model = {"name": "chat", "digest": DIGEST, "size": 8 * GIB, "sizeVram": 8 * GIB, "contextLength": 8192}
    models = [{**model, "pod": reference, **of_model} for reference in pods]
    return NodeVRAMReportStatus.model_validate({"sequence": sequence, "gpus": [gpu], "models": models, "heard": pods})


@dataclass
class Writer:
    """A PodWriter over one report for all nodes, with what it wrote and said."""

    report: NodeVRAMReportStatus | None = field(default_factory=status)
    fresh: bool = True
    agents: bool = True
    written: list[dict[str, str]] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    writer: PodWriter = field(init=False)

    def __post_init__(self) -> None:
        self.writer = PodWriter(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lambda: datetime(2026, 1, 1, tzinfo=UTC),
            agents=self.agents,
            demotions=Demotions(self.clock),
        )

    def of(self, _node: str) -> Report | None:
        return None if self.report is None else Report(self.report, fresh=self.fresh)

    async def patch(self, _kind: Any, _namespace: str, name: str, body: Any, **_: Any) -> None:
        (condition,) = body["status"]["conditions"]
        self.written.append({"pod": name, **condition})

    def record(self, regarding: Any, *, reason: str, message: str, event_type: str) -> None:
        self.events.append((regarding["metadata"]["name"], event_type, f"{reason}: {message}"))

    def update(
        self, *pods: PodView, state: SidecarState | None = STATE, expected: Expectation | None = EXPECTED
    ) -> float | None:
        group = ObservedGroup("g0", pods=tuple(ObservedPod(one, state=state) for one in pods))
        promised = {"g0": expected} if expected else {}
        return asyncio.run(self.writer.update([group], {"g0": CONFIG}, expected=promised))

    def gate(self, *pods: PodView, **given: Any) -> tuple[str, str, str]:
        """Status, reason and message that are written for the only pod; empty when nothing is."""
        self.written.clear()
        self.update(*(pods or (pod(),)), **given)
        if not self.written:
            return ("", "", "")
        (one,) = self.written
        return (one["status"], one["reason"], one["message"])


def test_the_gate_opens_when_sidecar_and_report_agree() -> None:
    writer = Writer()
    assert writer.gate() == ("True", Reason.RESIDENT, "1/1 models in memory, in GPU memory by the node's report")
    assert writer.events == [
        (
            "chat-0",
            "Normal",
            "Resident: Readiness gate opens: 1/1 models in memory, in GPU memory by the node's report",
        )
    ]


def test_nothing_is_written_where_nothing_changes() -> None:
    writer = Writer()
    writer.update(pod())
    said = replace(pod(gate="True"), gate_reason=writer.written[0]["reason"], gate_message=writer.written[0]["message"])
    writer.written.clear()
    assert writer.update(said) is None
    assert (writer.written, len(writer.events)) == ([], 1)


AT_ONCE: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "lost GPU": ({"healthy": False, "reason": "GPULost"}, Reason.GPU_UNHEALTHY, "GPU GPU-1: GPULost"),
    "other weights": ({"digest": "sha256:" + "b" * 64}, Reason.DIGEST_MISMATCH, "chat was loaded from sha256:bbb"),
}
IN_TIME: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "silent CPU fall-back": ({"sizeVram": 0}, Reason.CPU_OFFLOAD, "100 % of chat in system memory"),
    "partial offload": ({"sizeVram": 6 * GIB}, Reason.CPU_OFFLOAD, "25 % of chat in system memory"),
    "claims more than it has": (
        {"processes": [{"pid": 7, "usedMebibytes": 400, "pod": "ns/chat-0"}]},
        Reason.CPU_OFFLOAD,
        "the driver counts 400 MiB for the pod, 8192 MiB are expected",
    ),
    "too little context": (
        {"contextLength": 4096},
        Reason.CONTEXT_TOO_SMALL,
        "chat was loaded with 4096 tokens of context, planned are 8192",
    ),
}
FAULTS = {**AT_ONCE, **IN_TIME}


@pytest.mark.parametrize(("change", "reason", "words"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_keeps_a_closed_gate_closed_and_names_itself(
    change: dict[str, Any], reason: Reason, words: str
) -> None:
    found = Writer(status(**change)).gate()
    assert found[:2] == ("False", reason)
    assert words in found[2]


@pytest.mark.parametrize(("change", "reason", "words"), AT_ONCE.values(), ids=list(AT_ONCE))
def test_what_makes_a_server_useless_closes_its_gate_at_once_even_of_the_last(
    change: dict[str, Any], reason: Reason, words: str
) -> None:
    writer = Writer(status(**change))
    assert writer.gate(pod(gate="True"))[:2] == ("False", reason)
    assert writer.events[0][1] == "Warning"
    assert words in writer.events[0][2]


@pytest.mark.parametrize(("change", "reason", "words"), IN_TIME.values(), ids=list(IN_TIME))
def test_what_makes_a_server_slow_closes_its_gate_when_it_lasts_and_another_serves(
    change: dict[str, Any], reason: Reason, words: str
) -> None:
    both = (pod(gate="True"), pod("chat-1", gate="True", reason=Reason.RESIDENT))
    bad, good = status(**change), status(names=("chat-0", "chat-1"))
    mixed = bad.model_copy(update={"models": [bad.models[0], good.models[1]]})
    writer = Writer(mixed)
    assert writer.update(*both) == HOLD_SECONDS
    assert [one["pod"] for one in writer.written] == ["chat-1"], "of chat-0 nothing is decided yet"
    writer.clock.now += HOLD_SECONDS
    writer.written.clear()
    writer.update(*both)
    (closed,) = [one for one in writer.written if one["pod"] == "chat-0"]
    assert (closed["status"], closed["reason"]) == ("False", reason)
    assert words in closed["message"]


@pytest.mark.parametrize(("mebibytes", "opens"), [(8192 * 79 // 100, "False"), (8192 * 80 // 100 + 1, "True")])
def test_four_fifths_of_the_expected_bytes_by_the_drivers_count_are_enough(mebibytes: int, opens: str) -> None:
    counted = {"chat-0": mebibytes, "chat-1": 8200}
    processes = [{"pid": 7, "usedMebibytes": used, "pod": f"ns/{name}"} for name, used in counted.items()]
    writer = Writer(status(names=tuple(counted), processes=processes))
    assert writer.gate()[0] == opens
    both = [pod(name, gate="True", reason=Reason.RESIDENT) for name in counted]
    writer.update(*both)
    writer.clock.now += HOLD_SECONDS
    writer.written.clear()
    writer.update(*both)
    assert {one["pod"]: one["status"] for one in writer.written}["chat-0"] == opens


@pytest.mark.parametrize(("change", "reason", "words"), IN_TIME.values(), ids=list(IN_TIME))
def test_the_last_ready_server_is_spared_what_is_only_slow(change: dict[str, Any], reason: Reason, words: str) -> None:
    writer = Writer(status(**change))
    writer.update(pod(gate="True"))
    writer.clock.now += HOLD_SECONDS
    found = writer.gate(pod(gate="True"))
    assert found[:2] == ("True", reason)
    assert words in found[2]
    assert "last ready server" in found[2]
    assert writer.events == [("chat-0", "Warning", f"{reason}: Readiness gate stays open: {found[2]}")]
    writer.update(replace(pod(gate="True"), gate_reason=reason))
    assert len(writer.events) == 1, "once for a reason, whatever becomes of its figures"


def test_a_gate_that_a_report_closed_opens_when_nothing_speaks_against_it_for_some_seconds() -> None:
    writer = Writer()
    closed = pod(gate="False", reason=Reason.GPU_UNHEALTHY)
    assert writer.update(closed) == PROVE_SECONDS
    assert writer.written == []
    writer.clock.now += PROVE_SECONDS
    assert writer.gate(closed)[0] == "True"


def test_a_gpu_that_is_nowhere_to_be_found_keeps_the_gate_closed() -> None:
    blind = status().model_copy(update={"gpus": []})
    found = Writer(blind).gate()
    assert found[:2] == ("False", Reason.NO_GPU_FOUND)
    assert "the agent of n finds no GPU there" in found[2]


def test_a_model_that_left_memory_closes_the_gate_if_it_stays_so_even_of_the_last() -> None:
    gone = status().model_copy(update={"models": []})
    writer = Writer(gone)
    assert writer.update(pod(gate="True")) == HOLD_SECONDS
    writer.clock.now += HOLD_SECONDS
    assert writer.gate(pod(gate="True"))[:2] == ("False", Reason.NOT_RESIDENT)


UNTOLD: dict[str, tuple[NodeVRAMReportStatus, Reason, str]] = {
    "sidecar not heard": (
        status().model_copy(update={"models": [], "heard": []}),
        Reason.SIDECAR_UNREACHABLE,
        "The sidecar does not answer the agent of n",
    ),
    "driver never answered": (
        status().model_copy(update={"gpus": [], "conditions": [DRIVER_FAILED]}),
        Reason.REPORT_STALE,
        "The agent of n gets no answer from the GPU driver",
    ),
}


@pytest.mark.parametrize(("report", "reason", "words"), UNTOLD.values(), ids=list(UNTOLD))
def test_what_an_agent_could_not_learn_changes_nothing_but_the_words(
    report: NodeVRAMReportStatus, reason: Reason, words: str
) -> None:
    writer = Writer(report)
    writer.update(pod(gate="True"))
    writer.clock.now += HOLD_SECONDS
    found = writer.gate(pod(gate="True"))
    assert found[:2] == ("True", reason)
    assert words in found[2]
    assert writer.gate(pod())[:2] == ("False", reason)
    assert writer.gate(pod(gate="False", reason=Reason.CPU_OFFLOAD))[:2] == ("False", reason)


def test_a_lost_gpu_counts_whether_the_sidecar_is_heard_or_not() -> None:
    lost = status(healthy=False, reason="GPULost").model_copy(update={"models": [], "heard": []})
    assert Writer(lost).gate(pod(gate="True"))[:2] == ("False", Reason.GPU_UNHEALTHY)


def test_a_server_from_before_the_move_to_gpus_is_held_to_no_report() -> None:
    cpu = replace(pod(), wants_gpus=False)
    assert Writer(status(sizeVram=0)).gate(cpu)[:2] == ("True", Reason.RESIDENT)
    assert Writer(status(sizeVram=0)).gate()[0] == "False", "one on GPUs is"


@pytest.mark.parametrize(("gate", "written"), [("", "False"), ("False", "False"), ("True", "True")])
def test_a_stale_report_changes_nothing_but_the_words(gate: str, written: str) -> None:
    writer = Writer(status(sizeVram=0), fresh=False)
    found = writer.gate(pod(gate=gate))
    assert found == (written, Reason.REPORT_STALE, found[2])
    assert "The agent of n does not report any more" in found[2]
    assert writer.events == []


def test_suspicion_is_forgotten_while_nothing_is_reported() -> None:
    writer = Writer(status(sizeVram=0))
    writer.update(pod(gate="True"))
    writer.clock.now += HOLD_SECONDS
    writer.fresh = False
    writer.update(pod(gate="True"))
    writer.fresh = True
    assert writer.update(pod(gate="True")) == HOLD_SECONDS


def test_before_its_node_reports_a_server_waits_where_agents_are_installed() -> None:
    found = Writer(report=None).gate()
    assert found == ("False", Reason.REPORT_STALE, found[2])
    assert "The agent of n has not reported yet" in found[2]
    assert Writer(report=None).gate(pod(gate="True"))[0] == "True"


def test_without_agents_the_sidecars_word_counts() -> None:
    assert Writer(report=None, agents=False).gate() == ("True", Reason.RESIDENT, "1/1 models in memory")


def test_other_policies_ask_no_report() -> None:
    assert Writer(status(healthy=False), agents=True).gate(expected=None)[0] == "True"


def test_processes_that_the_node_does_not_tell_prove_nothing() -> None:
    assert Writer(status(processes=[])).gate()[0] == "True"
    assert Writer().gate(expected=Expectation())[0] == "True"


def test_a_silent_sidecar_closes_nothing_and_a_lost_gpu_does_all_the_same() -> None:
    assert Writer().gate(pod(gate="True"), state=None)[:2] == ("True", Reason.SIDECAR_UNREACHABLE)
    assert Writer().gate(pod(), state=None)[:2] == ("False", Reason.SIDECAR_UNREACHABLE)
    lost = Writer(status(healthy=False, reason="GPULost"))
    assert lost.gate(pod(gate="True"), state=None)[:2] == ("False", Reason.GPU_UNHEALTHY)


def test_an_ollama_that_the_kubelet_calls_unready_is_closed_whatever_the_report_says() -> None:
    assert Writer().gate(pod(gate="True", ready=False))[:2] == ("False", Reason.NOT_RESIDENT)


def test_the_status_says_what_models_took_at_load_of_what_the_gpus_have() -> None:
    told = Report(status(names=("chat-0", "chat-1"), totalMebibytes=24 * 1024), fresh=False)
    pods = [ObservedPod(pod(name), state=STATE) for name in ("chat-0", "chat-1", "elsewhere")]
    assert occupancy(pods[:1], lambda _: told) == "8.0/24.0 GiB"
    assert occupancy(pods, lambda _: told) == "16.0/24.0 GiB", "two pods share one card"
    assert occupancy(pods, lambda _: None) == ""


class NoServer:
    """An informer that is told what to see."""

    def pages(self, *_: Any, **__: Any) -> Any:
        raise AssertionError

    watch = pages


def followed() -> tuple[Reports, Informer, Clock, list[str]]:
    clock, told = Clock(), list[str]()
    informer = Informer(NoServer(), NODE_VRAM_REPORT)
    reports = Reports(informer, told.append, clock)
    reports.connect()
    return reports, informer, clock, told


_versions = iter(range(1, 10_000))


def put(informer: Informer, sequence: int, **changes: Any) -> None:
    document = status(sequence=sequence, **changes).to_wire()
    metadata = {"name": "n", "uid": "u", "resourceVersion": str(next(_versions))}
    informer._take("MODIFIED", {"metadata": metadata, "status": document})


def is_fresh(reports: Reports) -> bool:
    found = reports.of("n")
    assert found is not None
    return found.fresh


def test_a_report_counts_once_it_has_moved_and_until_it_stops() -> None:
    reports, informer, clock, _ = followed()
    assert reports.of("n") is None
    put(informer, 5)
    assert not is_fresh(reports)
    put(informer, 6)
    assert is_fresh(reports)
    clock.now += STALE_SECONDS
    assert not is_fresh(reports)


def test_a_pod_that_is_heard_is_news() -> None:
    _, informer, _, told = followed()
    put(informer, 1, name="other")
    put(informer, 2, name="other")
    told.clear()
    document = {**status(sequence=3, name="other").to_wire(), "heard": []}
    metadata = {"name": "n", "uid": "u", "resourceVersion": str(next(_versions))}
    informer._take("MODIFIED", {"metadata": metadata, "status": document})
    assert told == ["n"]


def test_a_heartbeat_wakes_nobody_but_news_silence_and_the_return_do() -> None:
    reports, informer, clock, told = followed()
    put(informer, 1)
    put(informer, 2)
    told.clear()
    for sequence in range(3, 9):
        clock.now += 30
        put(informer, sequence)
    assert told == []
    put(informer, 9, healthy=False, reason="GPULost")
    assert told == ["n"]
    clock.now += STALE_SECONDS
    reports.look()
    reports.look()
    assert told == ["n", "n"]
    put(informer, 10, healthy=False, reason="GPULost")
    assert told == ["n", "n", "n"]


def test_a_report_that_was_overtaken_is_no_news_and_no_sign_of_life() -> None:
    reports, informer, clock, told = followed()
    put(informer, 10)
    put(informer, 12)
    told.clear()
    clock.now += STALE_SECONDS - 1
    put(informer, 11, healthy=False, reason="GPULost")
    assert told == []
    found = reports.of("n")
    assert found is not None
    assert found.status.gpus[0].healthy
    clock.now += 1
    assert not is_fresh(reports)


def test_an_agent_whose_clock_was_put_back_counts_again_when_it_goes_on_counting() -> None:
    reports, informer, clock, _ = followed()
    put(informer, 7200)
    put(informer, 7201)
    clock.now += STALE_SECONDS
    put(informer, 3600)
    assert not is_fresh(reports)
    put(informer, 3601, healthy=False, reason="GPULost")
    assert is_fresh(reports)
    found = reports.of("n")
    assert found is not None
    assert not found.status.gpus[0].healthy
