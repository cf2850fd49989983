"""Policy VRAM: the node's report must agree, silence proves nothing, and the last server is spared what is slow."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers import gates
from ollama_fleet.controllers.gates import Evidence
from ollama_fleet.controllers.pods import PodView, view
from ollama_fleet.controllers.reports import STALE_SECONDS, Report, Reports
from ollama_fleet.kube.informer import Informer
from ollama_fleet.kube.kinds import NODE_VRAM_REPORT

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


def pod(*, gate: str = "") -> PodView:
    conditions = [{"type": "ollamafleet.io/vram-resident", "status": gate}] if gate else []
    found = view(
        {
            "metadata": {"namespace": "ns", "name": "chat-0", "uid": "u", "labels": {}, "annotations": {}},
            "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "ollamafleet.io/vram-resident"}]},
            "status": {"conditions": conditions},
        }
    )
    return replace(found, ollama_ready=True)


def status(*, sequence: int = 1, vram: int = 8 * GIB, digest: str = DIGEST, **gpu: Any) -> NodeVRAMReportStatus:
    device = {"uuid": "GPU-1", "index": 0, "pods": ["ns/chat-0"], "healthy": True}
    processes = [{"pid": 7, "usedMebibytes": 8200, "pod": "ns/chat-0"}]
    model = {"pod": "ns/chat-0", "name": "chat", "digest": digest, "size": 8 * GIB, "sizeVram": vram}
    return NodeVRAMReportStatus.model_validate(
        {"sequence": sequence, "gpus": [{**device, "processes": processes, **gpu}], "models": [model]}
    )


def decide(
    found: NodeVRAMReportStatus, *, gate: str = "", fresh: bool = True, last_ready: bool = False, planned: int = 8 * GIB
) -> gates.Gate:
    evidence = Evidence(Report(found, fresh=fresh), {"chat": planned}, last_ready=last_ready)
    return gates.decide(pod(gate=gate), state=STATE, config=CONFIG, evidence=evidence)


def test_the_gate_opens_when_sidecar_and_driver_agree() -> None:
    found = decide(status())
    assert (found.status, found.reason) == ("True", Reason.RESIDENT)
    assert found.message == "1/1 models in memory, in GPU memory by the driver's count"


FAULTS: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "lost GPU": ({"healthy": False, "reason": "GPULost"}, Reason.GPU_UNHEALTHY, "GPU GPU-1: GPULost"),
    "silent CPU fall-back": ({"vram": 0}, Reason.CPU_OFFLOAD, "100 % of chat is in system memory"),
    "partial offload": ({"vram": 6 * GIB}, Reason.CPU_OFFLOAD, "25 % of chat is in system memory"),
    "other weights": ({"digest": "sha256:" + "b" * 64}, Reason.DIGEST_MISMATCH, "chat was loaded from sha256:bbb"),
    "claims more than it has": (
        {"processes": [{"pid": 7, "usedMebibytes": 400, "pod": "ns/chat-0"}]},
        Reason.CPU_OFFLOAD,
        "the driver counts 400 MiB for the pod, 8192 MiB are planned",
    ),
}


@pytest.mark.parametrize("gate", ["", "True"])
@pytest.mark.parametrize(("change", "reason", "words"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_closes_the_gate_and_names_itself(
    change: dict[str, Any], reason: Reason, words: str, gate: str
) -> None:
    found = decide(status(**change), gate=gate)
    assert (found.status, found.reason) == ("False", reason)
    assert words in found.message


@pytest.mark.parametrize(("change", "reason", "words"), FAULTS.values(), ids=list(FAULTS))
def test_the_last_ready_server_is_spared_what_is_only_slow(change: dict[str, Any], reason: Reason, words: str) -> None:
    found = decide(status(**change), gate="True", last_ready=True)
    assert (found.status == "True") is (reason is Reason.CPU_OFFLOAD)
    assert found.reason is reason


def test_an_evicted_model_closes_the_gate_even_of_the_last() -> None:
    evicted = status().model_copy(update={"models": []})
    found = decide(evicted, gate="True", last_ready=True)
    assert (found.status, found.reason) == ("False", Reason.NOT_RESIDENT)


@pytest.mark.parametrize(("gate", "expected"), [("", "False"), ("False", "False"), ("True", "True")])
def test_a_stale_report_changes_nothing(gate: str, expected: str) -> None:
    found = decide(status(vram=0), gate=gate, fresh=False)
    assert (found.status, found.reason) == (expected, Reason.REPORT_STALE)


def test_processes_that_the_node_does_not_tell_prove_nothing() -> None:
    assert decide(status(processes=[])).status == "True"
    assert decide(status(), planned=0).status == "True"


def test_without_an_agent_the_sidecar_s_word_counts() -> None:
    assert gates.decide(pod(), state=STATE, config=CONFIG).status == "True"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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


def put(informer: Informer, sequence: int, **changes: Any) -> None:
    document = status(sequence=sequence, **changes).to_wire()
    metadata = {"name": "n", "uid": "u", "resourceVersion": str(sequence)}
    informer._take("MODIFIED", {"metadata": metadata, "status": document})


def test_a_report_counts_once_it_has_moved_and_until_it_stops() -> None:
    reports, informer, clock, _ = followed()
    assert reports.of("n") is None
    put(informer, 5)
    first = reports.of("n")
    assert first is not None
    assert not first.fresh
    put(informer, 6)
    moved = reports.of("n")
    assert moved is not None
    assert moved.fresh
    clock.now += STALE_SECONDS
    silent = reports.of("n")
    assert silent is not None
    assert not silent.fresh


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
