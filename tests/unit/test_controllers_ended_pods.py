"""Pods that ended stay as objects until they are collected; they are nobody's servers."""

import pytest

from tests.support.reconciled import Reconciled


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
async def test_a_pod_that_ended_is_no_server(phase: str) -> None:
    bench = Reconciled()
    await bench.serving()
    bench.pod("evicted", gate="", phase=phase)
    await bench.look()
    assert (bench.status["replicas"], bench.status["warm"]) == (1, "1/1")
    assert [model["state"] for model in bench.status["models"]] == ["Warm"]


async def test_a_suspended_deployment_does_not_wait_for_a_pod_that_ended() -> None:
    bench = Reconciled()
    bench.model_set({"name": "chat"})
    bench.deploy(suspend=True)
    await bench.look()
    bench.roll_out(0, updated=0)
    bench.pod("evicted", gate="", phase="Failed")
    await bench.look()
    assert bench.condition("Ready")[1] == "Suspended"
