"""Whatever cannot be read or is refused is said in the status, and gates go on closing meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest

from ollama_fleet.kube import errors
from ollama_fleet.planning.placement import Demand, NodeView, choose
from tests.support.plans import GPU
from tests.support.reconciled import Reconciled
from tests.unit.test_modelset_controller import KEY
from tests.unit.test_modelset_controller import Bench as ModelSetBench

QUOTA = errors.QuotaExceeded("pods is forbidden: exceeded quota: q", code=403)
INVALID = errors.Invalid("x is invalid", code=422, causes=(("spec.affinity.operator", "not a valid operator"),))


def unknown_field(bench: Reconciled) -> None:
    bench.deploy(fieldOfALaterVersion=True)


def parameter(value: Any) -> Callable[[Reconciled], None]:
    def edit(bench: Reconciled) -> None:
        bench.edit_model_set(models=[{"name": "chat", "modelfile": {"parameters": {"mirostat_opts": value}}}])

    return edit


def second_set(bench: Reconciled) -> None:
    bench.deploy(modelSets=[{"name": "models"}, {"name": "missing"}])


def refused(kind: str, error: Exception, **spec: Any) -> Callable[[Reconciled], None]:
    def edit(bench: Reconciled) -> None:
        bench.server.refuses[kind] = error
        bench.deploy(**spec)

    return edit


INPUTS: dict[str, tuple[Callable[[Reconciled], None], str, str]] = {
    "unknown field": (unknown_field, "InvalidSpec", "spec.fieldOfALaterVersion"),
    "object as parameter": (parameter({"tau": 5}), "InvalidSpec", "ModelSet models: spec.models.0.modelfile"),
    "numbers as parameter": (parameter([1, 2]), "InvalidSpec", "ModelSet models: spec.models.0.modelfile"),
    "null as parameter": (parameter(None), "InvalidSpec", "ModelSet models: spec.models.0.modelfile"),
    "missing set": (second_set, "ModelSetMissing", "ModelSet missing does not exist"),
    "deployment refused": (
        refused("Deployment", INVALID, version="0.32.4"),
        "InvalidSpec",
        "Deployment spec.affinity.operator: not a valid operator",
    ),
    "job over quota": (
        refused("Job", QUOTA, storage={"cache": {"type": "Node"}}),
        "QuotaExceeded",
        "exceeded quota: q",
    ),
    "job refused": (
        refused("Job", INVALID, storage={"cache": {"type": "Node"}}),
        "InvalidSpec",
        "Job spec.affinity.operator: not a valid operator",
    ),
    "job forbidden": (
        refused("Job", errors.Forbidden("no", code=403), storage={"cache": {"type": "Node"}}),
        "InvalidSpec",
        "no",
    ),
}


@pytest.mark.parametrize(("edit", "reason", "message"), INPUTS.values(), ids=INPUTS)
async def test_it_is_said_and_the_gate_of_a_pod_that_lost_its_model_closes(
    edit: Callable[[Reconciled], None], reason: str, message: str
) -> None:
    bench = Reconciled()
    await bench.serving()
    assert bench.condition("Ready")[:2] == ("True", "AllWarm")
    edit(bench)
    bench.lose_model("p1")
    await bench.look()
    assert bench.condition("Stalled")[:2] == ("True", reason)
    assert message in bench.condition("Stalled")[2]
    assert bench.gate("p1")["status"] == "False"
    live = bench.server.objects["OllamaDeployment", "ns", "chat"]
    assert bench.status["observedGeneration"] == live["metadata"]["generation"]
    assert bench.deployment


@pytest.mark.parametrize("kind", ["ConfigMap", "Service", "NetworkPolicy"])
async def test_an_object_of_somebody_else_is_not_taken_over(kind: str) -> None:
    bench = Reconciled()
    bench.model_set({"name": "chat"})
    bench.deploy()
    await bench.look()
    ours = next(one for one in bench.server.of_kind(kind) if "ownerReferences" in one["metadata"])
    bench = Reconciled()
    theirs = {key: ours[key] for key in ("apiVersion", "kind")}
    theirs |= {"metadata": {"namespace": "ns", "name": ours["metadata"]["name"]}, "theirs": True}
    stored = bench.server.put(theirs)
    bench.model_set({"name": "chat"})
    bench.deploy()
    await bench.look()
    assert bench.server.objects[kind, "ns", theirs["metadata"]["name"]] == stored
    assert bench.condition("Stalled")[:2] == ("True", "InvalidSpec")
    assert f"{kind} {theirs['metadata']['name']} exists and does not belong" in bench.condition("Stalled")[2]


async def test_a_new_one_that_cannot_be_read_says_so() -> None:
    bench = Reconciled()
    bench.deploy(fieldOfALaterVersion=True)
    await bench.look()
    assert bench.condition("Stalled")[:2] == ("True", "InvalidSpec")
    assert bench.server.events[0]["reason"] == "InvalidSpec"
    assert bench.server.requests == [("status", "OllamaDeployment")]


UNREADABLE = [
    {"key": "pool", "operator": "in", "values": ["gpu"]},
    {"key": "pool", "operator": "Gt", "values": ["a lot"]},
    {"key": "pool", "operator": "Gt"},
    {"key": "pool", "operator": "In", "values": 5},
    {"key": ["pool"], "operator": "Exists"},
    {"key": "pool"},
    {"operator": "Exists"},
]


@pytest.mark.parametrize("expression", UNREADABLE, ids=str)
def test_no_node_matches_an_expression_that_cannot_be_read(expression: dict[str, Any]) -> None:
    demand = Demand(requests={}, terms=[{"matchExpressions": [expression]}])
    assert choose(demand, [NodeView("n", usable=True, labels={"pool": "5"})], {}) is None


async def test_a_typo_in_the_affinity_of_a_gpu_deployment_reaches_the_api_server_whose_words_stand_in_the_status() -> (
    None
):
    bench = Reconciled()
    bench.node("n1", **{"nvidia.com/gpu.memory": "23034", "pool": "gpu"})
    bench.model_set({"name": "chat"})
    bench.server.refuses["Deployment"] = INVALID
    required = {"nodeSelectorTerms": [{"matchExpressions": [UNREADABLE[0]]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    bench.deploy(hardware=GPU, placement={"affinity": affinity})
    await bench.look()
    assert (
        bench.condition("Stalled")[2]
        == "The API server refuses Deployment spec.affinity.operator: not a valid operator"
    )


@pytest.mark.parametrize("cron", ["0 24 * * *", "99 * * * *", "0 0 31 2 *", "*/0 * * * *"])
async def test_a_schedule_that_never_comes_stalls_its_model_set_whose_models_are_looked_up_still(cron: str) -> None:
    bench = ModelSetBench(updatePolicy={"type": "IfChanged", "schedule": cron})
    assert await bench.controller.reconcile(KEY) is None
    assert bench.condition("Stalled") == ("True", "InvalidSpec")
    (message,) = {condition["message"] for condition in bench.status["conditions"]}
    assert message.startswith("spec.updatePolicy.schedule: ")
    assert bench.status["models"][0]["ready"]


async def test_a_model_set_that_cannot_be_read_keeps_what_its_registry_answered() -> None:
    bench = ModelSetBench()
    await bench.controller.reconcile(KEY)
    bench.cluster.object["spec"] = {"models": [{"name": "chat", "modelfile": {"parameters": {"a": {"b": 1}}}}]}
    await bench.controller.reconcile(KEY)
    assert bench.condition("Stalled") == ("True", "InvalidSpec")
    assert bench.status["models"][0]["ready"]


async def test_of_two_models_of_one_name_the_first_is_served_while_the_conflict_stalls() -> None:
    bench = Reconciled()
    await bench.serving()
    bench.model_set({"name": "chat"}, name="two", letter="b")
    before = bench.config
    bench.deploy(modelSets=[{"name": "models"}, {"name": "two"}])
    await bench.look()
    assert bench.condition("Stalled")[:2] == ("True", "ModelConflict")
    assert bench.config == before
    bench.model_set({"name": "chat"}, letter="c")
    await bench.look()
    assert bench.config.models[0].manifest_digest == f"sha256:{'c' * 64}"
