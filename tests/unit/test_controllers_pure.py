"""The pure parts of the controllers: conditions, drift, gates, and what pods say about themselves."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ollama_fleet.api import names
from ollama_fleet.api.common import Condition
from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers import gates, pods
from ollama_fleet.controllers.conditions import Done, Stuck, Verdict, Working, conditions
from ollama_fleet.controllers.drift import holds

DIGEST = "sha256:" + "a" * 64
EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


def statuses(found: list[Condition]) -> dict[str, str]:
    return {condition.type: condition.status for condition in found}


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Done(Reason.ALL_WARM, "x"), {"Ready": "True", "Reconciling": "False", "Stalled": "False"}),
        (Working(Reason.LOADING, "x"), {"Ready": "False", "Reconciling": "True", "Stalled": "False"}),
        (
            Working(Reason.ROLLING_OUT, "x", serving=True),
            {"Ready": "True", "Reconciling": "True", "Stalled": "False"},
        ),
        (Stuck(Reason.MODEL_NOT_FOUND, "x"), {"Ready": "False", "Reconciling": "False", "Stalled": "True"}),
    ],
    ids=["done", "working", "serving", "stuck"],
)
def test_each_verdict_has_one_reading_for_kstatus(verdict: Verdict, expected: dict[str, str]) -> None:
    assert statuses(conditions(verdict, previous=(), generation=1, now=EARLY)) == expected


def test_transition_time_moves_only_where_the_status_flips() -> None:
    before = conditions(Working(Reason.PULLING, "a"), previous=(), generation=1, now=EARLY)
    after = conditions(Done(Reason.ALL_WARM, "b"), previous=before, generation=2, now=LATE)
    times = {condition.type: condition.last_transition_time for condition in after}
    assert times == {
        "Ready": "2026-01-02T00:00:00Z",
        "Reconciling": "2026-01-02T00:00:00Z",
        "Stalled": "2026-01-01T00:00:00Z",
    }
    assert {condition.observed_generation for condition in after} == {2}


def test_a_repeated_verdict_changes_nothing() -> None:
    verdict = Working(Reason.PULLING, "a")
    before = conditions(verdict, previous=(), generation=1, now=EARLY)
    assert conditions(verdict, previous=before, generation=1, now=LATE) == before


@pytest.mark.parametrize(
    ("wish", "live", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": {}}, {}, True),
        ({"env": [{"name": "X", "value": "1"}]}, {"env": [{"name": "Y"}, {"name": "X", "value": "1"}]}, True),
        ({"env": [{"name": "X", "value": "1"}]}, {"env": [{"name": "X", "value": "2"}]}, False),
        ({"env": [{"name": "X"}]}, {"env": [{"name": "Y"}]}, False),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}, False),
        ({"args": ["a"]}, {}, False),
    ],
)
def test_drift_is_a_field_of_the_wish_that_the_live_object_lacks(wish: Any, live: Any, *, same: bool) -> None:
    assert holds(wish, live) is same


def pod(*, ready: bool, gate: str = "", waiting: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": waiting, "message": "m"}} if waiting else {"running": {}}
    conditions_ = [{"type": names.READINESS_GATE, "status": gate}] if gate else []
    return {
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "labels": {names.LABEL_GROUP: "g0"}},
        "spec": {},
        "status": {
            "podIP": "10.0.0.1",
            "conditions": conditions_,
            "containerStatuses": [{"name": "ollama", "image": "i", "ready": ready, "state": state}],
        },
    }


def group(*, context: int = 2048) -> GroupConfig:
    model = GroupModel(
        name="chat", registry="r", repository="library/chat", manifest_digest=DIGEST, context_length=context
    )
    spare = model.model_copy(update={"name": "spare", "residency": "OnDemand"})
    return GroupConfig(namespace="ns", deployment="d", group="g0", ollama_version="0.32.3", models=(model, spare))


def state(phase: ModelPhase, *, config: GroupConfig, message: str = "") -> SidecarState:
    models = (
        ModelState(name="chat", phase=phase, message=message),
        ModelState(name="spare", phase=ModelPhase.CACHED),
    )
    return SidecarState(
        sequence=1, config_hash=config.hash(), ready=phase is ModelPhase.WARM, ollama_up=True, models=models
    )


def decide(raw: dict[str, Any], seen: SidecarState | None, config: GroupConfig) -> gates.Gate:
    return gates.by_sidecar(pods.view(raw), state=seen, config=config)


def test_the_gate_opens_only_for_a_warm_pod_with_the_planned_configuration() -> None:
    config = group()
    warm = state(ModelPhase.WARM, config=config)
    assert decide(pod(ready=True), warm, config) == gates.Gate("True", Reason.RESIDENT, "1/1 models in memory")
    assert decide(pod(ready=False), warm, config).status == "False"
    assert decide(pod(ready=True), state(ModelPhase.LOADING, config=config), config).status == "False"
    assert decide(pod(ready=True), None, config).status == "False"
    assert decide(pod(ready=True), warm, group(context=4096)).reason is Reason.CONFIG_PENDING


def test_an_open_gate_survives_silence_and_a_pending_configuration_but_not_a_cold_model() -> None:
    config = group()
    warm = state(ModelPhase.WARM, config=config)
    assert decide(pod(ready=True, gate="True"), None, config).status == "True"
    assert decide(pod(ready=True, gate="True"), warm, group(context=4096)).status == "True"
    assert decide(pod(ready=False, gate="True"), warm, config).reason is Reason.NOT_RESIDENT
    assert decide(pod(ready=True, gate="True"), state(ModelPhase.CACHED, config=config), config).status == "False"


def test_the_gate_says_what_is_missing_and_why() -> None:
    config = group()
    failed = state(ModelPhase.FAILED, config=config, message="out of memory")
    assert decide(pod(ready=False), failed, config).message == "0/1 models in memory; chat failed: out of memory"
    loading = decide(pod(ready=False), state(ModelPhase.LOADING, config=config), config)
    assert loading.message == "0/1 models in memory; waiting for chat"


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ImagePullBackOff", Reason.IMAGE_PULL_FAILED),
        ("InvalidImageName", Reason.IMAGE_PULL_FAILED),
        ("CrashLoopBackOff", Reason.CONTAINER_CRASHING),
        ("CreateContainerConfigError", Reason.CONTAINER_CRASHING),
    ],
)
def test_a_pod_that_cannot_start_names_its_trouble(waiting: str, reason: Reason) -> None:
    found = pods.trouble(pod(ready=False, waiting=waiting))
    assert found is not None
    assert found.reason is reason
    assert waiting in found.message


def test_a_pod_that_only_needs_time_is_in_no_trouble() -> None:
    assert pods.trouble(pod(ready=False, waiting="ContainerCreating")) is None
    assert pods.trouble(pod(ready=True)) is None


def test_an_unschedulable_pod_repeats_what_the_scheduler_says() -> None:
    raw = pod(ready=False)
    raw["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU"}
    ]
    found = pods.trouble(raw)
    assert found is not None
    assert found == pods.Trouble(Reason.UNSCHEDULABLE, "No node takes the pod: 0/3 nodes: no GPU")


def test_an_unschedulable_pod_names_the_gpus_that_it_asks_for() -> None:
    raw = pod(ready=False)
    raw["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    ]
    raw["spec"]["containers"] = [{"name": "ollama", "resources": {"limits": {"nvidia.com/gpu": "2", "memory": "4Gi"}}}]
    product = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4", "NVIDIA-T4"]}
    terms = [{"matchExpressions": [product, {"key": "zone", "operator": "Exists"}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    raw["spec"]["affinity"] = {"nodeAffinity": required}
    found = pods.trouble(raw)
    assert found is not None
    assert found.message == (
        "No node takes the pod, which asks for 2 nvidia.com/gpu, nvidia.com/gpu.product In NVIDIA-L4 or NVIDIA-T4: "
        "0/3 nodes"
    )
