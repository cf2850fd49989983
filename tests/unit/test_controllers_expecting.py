"""What the gate is held to, while the wish changes."""

from dataclasses import replace

from ollama_fleet.controllers.expecting import Expectations, options_of
from ollama_fleet.planning.expectations import Expectation
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import PlanRequest
from tests.support.plans import GPU, previous, request, view, wish

NAME = "llama3.1:8b"
VRAM = {"readiness": {"policy": "VRAM"}}


def test_an_edit_that_cannot_be_planned_lowers_nothing() -> None:
    """The new wish knows no header of the model that runs."""
    asked, expectations = wish({"name": NAME, "contextLength": 8192}, **VRAM), Expectations()
    plan = plan_deployment(asked)
    in_force = {group.name: group.config for group in plan.groups}

    def of(wanted: PlanRequest) -> dict[str, Expectation]:
        found = plan_deployment(wanted)
        return dict(expectations.of("u", wanted, found, in_force, options_of(wanted, found)))

    before = of(asked)
    assert before["g0"].planned[NAME] > 0
    edited = replace(request(view({"name": "other"}), None, hardware=GPU, **VRAM), previous=previous(plan))
    assert plan_deployment(edited).problems
    assert of(edited) == before
