"""Models that find too little memory: only what every server of the plan in force says counts."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupRecord, Started
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers import caches
from ollama_fleet.controllers.observer import Observer
from tests.support.plans import GPU, sized
from tests.support.reconciled import Reconciled

OWNER = {"metadata": {"namespace": "ns", "name": "chat"}}
RECORD = GroupRecord(environment=(Started(name="OLLAMA_NUM_PARALLEL", value="4", source="computed"),))
NO_ROOM = "llama-server exited: cudaMalloc failed: out of memory"


def pod(uid: str, *, parallel: str = "4") -> dict[str, Any]:
    env = [{"name": "OLLAMA_NUM_PARALLEL", "value": parallel}]
    return {
        "metadata": {"name": uid, "uid": uid, "labels": {names.LABEL_GROUP: "g0"}},
        "spec": {"containers": [{"name": names.CONTAINER_OLLAMA, "env": env}]},
    }


def told(phase: ModelPhase, message: str = "") -> SidecarState:
    model = ModelState(name="chat", phase=phase, message=message)
    return SidecarState(sequence=1, config_hash="", ready=False, models=(model,))


FAILED = told(ModelPhase.FAILED, NO_ROOM)


@pytest.mark.parametrize(
    ("pods", "states", "expected"),
    [
        ([pod("a")], {"a": FAILED}, {"chat"}),
        ([pod("a"), pod("b")], {"a": FAILED}, {"chat"}),
        ([pod("a"), pod("b")], {"a": FAILED, "b": told(ModelPhase.WARM)}, set()),
        ([pod("a")], {"a": told(ModelPhase.FAILED, "the file is damaged")}, set()),
        ([pod("a")], {"a": told(ModelPhase.LOADING)}, set()),
        ([pod("a", parallel="8")], {"a": FAILED}, set()),
        ([pod("a", parallel="8"), pod("b")], {"a": FAILED, "b": told(ModelPhase.LOADING)}, set()),
    ],
    ids=["one", "another says nothing", "another holds it", "other failure", "tries again", "old", "old and new"],
)
def test_a_model_is_starved_when_no_server_as_planned_holds_it(
    pods: list[dict[str, Any]], states: dict[str, SidecarState], expected: set[str]
) -> None:
    kept = [caches._pod(one) for one in pods]
    informers = cast("Any", SimpleNamespace(pods=SimpleNamespace(by_index=lambda *_: kept)))
    remembered = {uid: ("container", state) for uid, state in states.items()}
    observer = Observer(informers, cast("Any", None), remembered)
    assert observer.starved(OWNER, {"g0": RECORD}).get("g0", frozenset()) == expected
    assert observer.starved(OWNER, {}) == {}


async def test_servers_whose_models_find_no_room_are_planned_anew() -> None:
    bench = Reconciled()
    found = sized({"name": "llama3.1:8b", "contextLength": 8192})
    bench._put("ModelSet", "models", 1, found.spec.to_wire(), found.status.to_wire())
    bench.node("n1", **{"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"})
    bench.deploy(hardware=GPU, readiness={"policy": "Resident"})
    await bench.look()
    before = bench.deployment["spec"]["template"]
    bench.roll_out()
    bench.pod("p1", gate="False")
    bench.warm("p1", ModelPhase.FAILED)
    (model,) = bench.pods.states["p1"].models
    failed = model.model_copy(update={"message": NO_ROOM})
    bench.pods.states["p1"] = bench.pods.states["p1"].model_copy(update={"models": (failed,)})
    await bench.look()
    assert bench.deployment["spec"]["template"] != before
