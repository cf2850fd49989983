"""One verdict on a deployment: what is Done, what is on its way, what is stuck."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api import names
from ollama_fleet.api.progress import ModelProgress, PullPhase, PullProgress
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers.conditions import Done, Stuck, Working
from ollama_fleet.controllers.gates import DEMOTING
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.pods import Trouble, view
from ollama_fleet.controllers.verdicts import judge
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.problems import Problem
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


def group(
    seen: SidecarState | None, *, trouble: Trouble | None = None, ready: bool = True, closed_for: str = ""
) -> ObservedGroup:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    if closed_for:
        gate = {"type": names.READINESS_GATE, "status": "False", "reason": closed_for, "message": "as the gate says"}
        conditions.append(gate)
    pod: dict[str, Any] = {
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "labels": {names.LABEL_GROUP: "g0"}},
        "status": {"conditions": conditions},
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


PULLING = ModelProgress(name="a", phase=PullPhase.PULLING, total_bytes=10**9)
RETRYING = ModelProgress(name="a", phase=PullPhase.RETRYING, reason="RegistryUnreachable", message="no")


def beside(
    *, progress: ModelProgress | None = None, gated: bool = False, seen: SidecarState | None = None
) -> ObservedGroup:
    """A rollout: the old server takes traffic, the new one is on its way."""
    old, pulls = group(state(WARM, WARM)), PullProgress(models=(progress,) if progress else ())
    deployment = {**(old.deployment or {}), "status": {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 2}}
    new = ObservedPod(replace(old.pods[0].pod, ready=False, scheduling_gated=gated), None, seen, pulls)
    return ObservedGroup("g0", deployment, (*old.pods, new))


def resolving() -> Plan:
    return Plan(problems=(Problem(Reason.RESOLVING, "models are looked up", terminal=False),))


@pytest.mark.parametrize(
    ("plan", "seen", "reason"),
    [
        (plan(), beside(progress=PULLING), Reason.PULLING),
        (plan(), beside(progress=RETRYING), Reason.REGISTRY_UNREACHABLE),
        (plan(), beside(seen=state(CACHED, CACHED)), Reason.LOADING),
        (plan(), beside(seen=state(FAILED, CACHED)), Reason.LOAD_FAILED),
        (plan(), beside(), Reason.ROLLING_OUT),
        (plan(), beside(gated=True), Reason.ROLLING_OUT),
        (resolving(), group(state(WARM, WARM)), Reason.RESOLVING),
        (resolving(), beside(progress=PULLING), Reason.RESOLVING),
    ],
)
def test_whatever_is_on_its_way_the_deployment_is_ready_while_every_wanted_server_takes_traffic(
    plan: Plan, seen: ObservedGroup, reason: Reason
) -> None:
    found = judge(plan, [seen], suspended=False)
    assert found == Working(reason, found.message, serving=True)


@pytest.mark.parametrize("seen", [[], [group(None, ready=False)], [ObservedGroup("g0", {"spec": {"replicas": 0}})]])
def test_a_wish_that_is_looked_up_is_not_ready_without_servers(seen: list[ObservedGroup]) -> None:
    found = judge(resolving(), seen, suspended=False)
    assert found == Working(Reason.RESOLVING, found.message, serving=False)


def test_a_sidecar_that_cannot_be_reached_does_not_undo_what_the_kubelet_says() -> None:
    assert isinstance(judge(plan(), [group(None)], suspended=False), Done)


def test_a_pod_in_trouble_is_stuck() -> None:
    broken = group(None, trouble=Trouble(Reason.IMAGE_PULL_FAILED, "no such image"), ready=False)
    found = judge(plan(), [broken], suspended=False)
    assert isinstance(found, Stuck)
    assert found.reason is Reason.IMAGE_PULL_FAILED


@pytest.mark.parametrize("reason", sorted(DEMOTING | {Reason.REPORT_STALE, Reason.SIDECAR_UNREACHABLE}))
def test_why_a_report_keeps_a_gate_closed_is_told(reason: Reason) -> None:
    closed = group(state(WARM, WARM), ready=False, closed_for=reason)
    found = judge(plan(), [closed], suspended=False)
    assert found == Working(reason, "0/1 servers ready; pod p: as the gate says", serving=False)


def test_a_suspended_deployment_is_done_when_its_pods_are_gone() -> None:
    assert isinstance(judge(plan(), [group(state(WARM, WARM))], suspended=True), Working)
    found = judge(plan(), [ObservedGroup("g0")], suspended=True)
    assert isinstance(found, Done)
    assert found.reason is Reason.SUSPENDED


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        (Reason.REGISTRY_UNREACHABLE, Working),
        (Reason.MODEL_NOT_FOUND, Stuck),
        (Reason.UNAUTHORIZED, Stuck),
        (Reason.DIGEST_MISMATCH, Stuck),
    ],
)
def test_a_registry_that_is_away_comes_back_by_itself_and_nothing_else_does(
    reason: Reason, verdict: type[Stuck | Working]
) -> None:
    """While it is asked for the model, and while the model is pulled."""
    asked = model_set({"name": "a"})
    told = asked.status.models[0].model_copy(update={"ready": False, "reason": reason, "message": "no"})
    unresolved = replace(asked, status=asked.status.model_copy(update={"models": [told]}))
    retrying = ModelProgress(name="a", phase=PullPhase.RETRYING, reason=reason, message="no")
    starting = group(None, ready=False)
    (pod,) = starting.pods
    pulling = replace(starting, pods=(replace(pod, progress=PullProgress(models=(retrying,))),))
    for found in (
        judge(plan_deployment(request(unresolved)), [], suspended=False),
        judge(plan(), [pulling], suspended=False),
    ):
        assert (type(found), found.reason) == (verdict, reason)


def test_a_problem_keeps_what_runs_and_says_so() -> None:
    missing = plan_deployment(request(None))
    found = judge(missing, [group(state(WARM, WARM))], suspended=False)
    assert isinstance(found, Stuck)
    assert "1 servers of the last plan keep serving" in found.message
