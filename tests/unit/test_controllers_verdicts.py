"""One verdict on a deployment: what is Done, what is on its way, what is stuck."""

from typing import Any

import pytest

from ollama_fleet.api import names
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers.conditions import Done, Stuck, Working
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.pods import Trouble, view
from ollama_fleet.controllers.verdicts import judge
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from tests.support.plans import request
from tests.support.plans import view as model_set


def plan() -> Plan:
    return plan_deployment(request(model_set({"name": "a"}, {"name": "b"})))


def state(*phases: ModelPhase, config_hash: str = "") -> SidecarState:
    models = tuple(
        ModelState(name=name, phase=phase, message="out of memory") for name, phase in zip("ab", phases, strict=True)
    )
    return SidecarState(
        sequence=1,
        config_hash=config_hash or plan().groups[0].config.hash(),
        ready=phases[0] is ModelPhase.WARM,
        models=models,
    )


def group(seen: SidecarState | None, *, trouble: Trouble | None = None, ready: bool = True) -> ObservedGroup:
    pod: dict[str, Any] = {
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "labels": {names.LABEL_GROUP: "g0"}},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
    deployment = {
        "metadata": {"generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1},
    }
    return ObservedGroup("g0", deployment, (ObservedPod(view(pod), trouble, seen),))


WARM, CACHED, FAILED = ModelPhase.WARM, ModelPhase.CACHED, ModelPhase.FAILED


def test_everything_warm_is_done() -> None:
    found = judge(plan(), [group(state(WARM, WARM))], suspended=False)
    assert isinstance(found, Done)
    assert found.reason is Reason.ALL_WARM


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (state(WARM, CACHED), Reason.LOADING),
        (state(WARM, FAILED), Reason.LOAD_FAILED),
        (state(WARM, WARM, config_hash="old"), Reason.CONFIG_PENDING),
    ],
)
def test_a_model_that_joins_is_waited_for_while_the_others_serve(seen: SidecarState, reason: Reason) -> None:
    found = judge(plan(), [group(seen)], suspended=False)
    assert found == Working(reason, found.message, serving=True)


def test_a_sidecar_that_cannot_be_reached_does_not_undo_what_the_kubelet_says() -> None:
    assert isinstance(judge(plan(), [group(None)], suspended=False), Done)


def test_a_pod_in_trouble_is_stuck() -> None:
    broken = group(None, trouble=Trouble(Reason.IMAGE_PULL_FAILED, "no such image"), ready=False)
    found = judge(plan(), [broken], suspended=False)
    assert isinstance(found, Stuck)
    assert found.reason is Reason.IMAGE_PULL_FAILED


def test_a_suspended_deployment_is_done_when_its_pods_are_gone() -> None:
    assert isinstance(judge(plan(), [group(state(WARM, WARM))], suspended=True), Working)
    found = judge(plan(), [ObservedGroup("g0")], suspended=True)
    assert isinstance(found, Done)
    assert found.reason is Reason.SUSPENDED


def test_a_problem_keeps_what_runs_and_says_so() -> None:
    missing = plan_deployment(request(None))
    found = judge(missing, [group(state(WARM, WARM))], suspended=False)
    assert isinstance(found, Stuck)
    assert "1 servers of the last plan keep serving" in found.message
