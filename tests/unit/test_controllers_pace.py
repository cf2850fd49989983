"""Counts of a status wait a little; what tools act on does not."""

from ollama_fleet.api.common import Condition
from ollama_fleet.api.deploymentstatus import OllamaDeploymentStatus
from ollama_fleet.controllers.pace import HOLD_SECONDS, Pace


def status(replicas: int, *, ready: str = "False", generation: int = 1) -> OllamaDeploymentStatus:
    condition = Condition(
        type="Ready", status=ready, reason="Starting", message="", last_transition_time="2026-01-01T00:00:00Z"
    )
    return OllamaDeploymentStatus(replicas=replicas, observed_generation=generation, conditions=[condition])


def test_a_count_is_written_after_a_while() -> None:
    pace = Pace()
    assert pace.holds("u", status(0), status(1), now=100)
    assert pace.holds("u", status(0), status(2), now=100 + HOLD_SECONDS - 0.1)
    assert not pace.holds("u", status(0), status(2), now=100 + HOLD_SECONDS)


def test_after_a_write_the_next_one_waits_again() -> None:
    pace = Pace()
    pace.holds("u", status(0), status(1), now=100)
    assert not pace.holds("u", status(0), status(1), now=103)
    assert pace.holds("u", status(1), status(2), now=103.1)


def test_each_is_held_for_itself() -> None:
    pace = Pace()
    pace.holds("u", status(0), status(1), now=100)
    assert pace.holds("v", status(0), status(1), now=103)


def test_a_change_that_goes_back_is_forgotten() -> None:
    pace = Pace()
    pace.holds("u", status(0), status(1), now=100)
    assert not pace.holds("u", status(0), status(0), now=101)
    assert pace.holds("u", status(0), status(1), now=103)


def test_a_condition_and_a_generation_wait_for_nothing() -> None:
    assert not Pace().holds("u", status(0), status(1, ready="True"), now=100)
    assert not Pace().holds("u", status(0), status(0, generation=2), now=100)


def test_one_that_is_gone_is_forgotten() -> None:
    pace = Pace()
    pace.holds("u", status(0), status(1), now=100)
    pace.forget("u")
    assert pace.holds("u", status(0), status(1), now=200)
