"""Pods are asked each second while only they can tell what happens, and no longer."""

from dataclasses import replace

import pytest

from ollama_fleet.api.progress import PullProgress
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers.conditions import Done, Stuck, Working
from ollama_fleet.controllers.next_look import FOLLOW_SECONDS, next_look
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.pods import Trouble, view
from ollama_fleet.planning.planner import plan_deployment
from tests.support.plans import request
from tests.support.plans import view as model_set

PLAN = plan_deployment(request(model_set({"name": "a"})))
IN_FORCE = {group.name: group.config for group in PLAN.groups}
ROLLING = Working(Reason.SCALING, "0/1 servers ready")
POD = view({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {}, "status": {}})
SERVES = replace(POD, sidecar_running=True, gate="True")


def state(phase: ModelPhase = ModelPhase.WARM, *, ready: bool = True, config_hash: str = "") -> SidecarState:
    digest = config_hash or PLAN.groups[0].config.hash()
    return SidecarState(sequence=1, config_hash=digest, ready=ready, models=(ModelState(name="a", phase=phase),))


def look(observed: ObservedPod, *, name: str = PLAN.groups[0].name) -> float | None:
    return next_look(PLAN, ROLLING, [ObservedGroup(name, None, (observed,))], IN_FORCE)


def test_one_that_serves_what_is_planned_is_left_alone_while_its_rollout_ends() -> None:
    assert look(ObservedPod(SERVES, state=state())) is None


@pytest.mark.parametrize(
    "observed",
    [
        ObservedPod(replace(POD, puller_running=True)),
        ObservedPod(replace(SERVES, gate=""), state=state()),
        ObservedPod(replace(SERVES, gate="False"), state=state()),
        ObservedPod(SERVES),
        ObservedPod(SERVES, state=state(ready=False)),
        ObservedPod(SERVES, state=state(config_hash="old")),
        ObservedPod(SERVES, state=state(ModelPhase.LOADING)),
    ],
    ids=["pulls", "gate not set", "gate closed", "silent", "not ready", "old configuration", "a model joins"],
)
def test_one_on_its_way_is_followed(observed: ObservedPod) -> None:
    assert look(observed) == FOLLOW_SECONDS


def test_one_of_a_group_that_is_planned_no_more_is_followed() -> None:
    assert look(ObservedPod(SERVES, state=state()), name="gone") == FOLLOW_SECONDS


def test_one_that_is_placed_sends_events() -> None:
    assert look(ObservedPod(POD)) is None


def test_one_that_may_get_the_room_of_another_is_looked_at_until_it_has_waited_long_enough() -> None:
    waits = ObservedPod(POD, Trouble(Reason.UNSCHEDULABLE, "Insufficient cpu"))
    serves = ObservedPod(replace(SERVES, node="n"), state=state())
    assert next_look(PLAN, ROLLING, [ObservedGroup(PLAN.groups[0].name, None, (serves, waits))], IN_FORCE) == 5
    assert look(waits) is None


def test_one_that_has_not_answered_yet_is_asked_again_although_all_is_done() -> None:
    def look(pod: ObservedPod) -> float | None:
        done = Done(Reason.ALL_WARM, "yes")
        return next_look(PLAN, done, [ObservedGroup(PLAN.groups[0].name, None, (pod,))], IN_FORCE)

    assert look(ObservedPod(SERVES)) == 5
    assert look(ObservedPod(SERVES, state=state())) is None
    assert look(ObservedPod(replace(SERVES, deleting=True))) is None


def test_a_job_that_pulls_is_followed() -> None:
    gated = (ObservedPod(replace(POD, scheduling_gated=True)),)
    pulls = (PullProgress(),)
    name = PLAN.groups[0].name
    assert next_look(PLAN, ROLLING, [ObservedGroup(name, None, gated)], IN_FORCE) == 5
    assert next_look(PLAN, ROLLING, [ObservedGroup(name, None, gated, pulls)], IN_FORCE) == FOLLOW_SECONDS


def test_what_others_must_mend_is_looked_at_now_and_then() -> None:
    serving = [ObservedGroup(PLAN.groups[0].name, None, (ObservedPod(SERVES, state=state()),))]
    assert next_look(PLAN, Stuck(Reason.QUOTA_EXCEEDED, "no"), serving, IN_FORCE) == 30
    assert next_look(PLAN, Done(Reason.ALL_WARM, "yes"), serving, IN_FORCE) is None
