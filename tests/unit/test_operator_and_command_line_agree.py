"""The operator in a cluster and the command line without one give the same answer to the same wish."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from ollama_fleet.api.modelset import ModelSetSpec
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.cli.main import main
from ollama_fleet.controllers.caches import Caches
from ollama_fleet.controllers.nodes import Nodes
from ollama_fleet.controllers.observer import Observer
from ollama_fleet.controllers.ollamadeployment import OllamaDeploymentController
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy
from ollama_fleet.sizing.calibration import Calibration
from ollama_fleet.sizing.portable import to_document
from testbed.paths import ROOT
from tests.support.golden import agree
from tests.support.plans import shape_of

Document = dict[str, Any]
NOW = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Case:
    """Manifests, and the GPUs as the command line and as the labels of nodes name them."""

    file: Path
    option: tuple[str, str]
    memory: int
    """MiB that the label of a node shows."""
    gpus: int = 1
    """On each node."""
    nodes: int = 1


PLANS = ROOT / "tests/data/plans"
CASES = {
    "five-models": Case(ROOT / "examples/five-models-24gib/fleet.yaml", ("--gpu", "24Gi"), 22609),
    "two-teams": Case(ROOT / "examples/multi-tenant/fleet.yaml", ("--gpu-product", "L40S"), 46068, gpus=1),
    "cores": Case(ROOT / "examples/cpu-chat/fleet.yaml", ("--gpu", "24Gi"), 22609),
    "agents-on-two-gpus": Case(PLANS / "agents-on-two-gpus.yaml", ("--gpu-product", "L40S"), 46068, gpus=2, nodes=2),
    "batch": Case(PLANS / "batch.yaml", ("--gpu-product", "L4"), 23034),
    "long-context": Case(PLANS / "long-context.yaml", ("--gpu", "24Gi"), 22609),
    "three-servers": Case(PLANS / "three-servers.yaml", ("--gpu-product", "L4"), 23034, gpus=3),
}


@dataclass
class Kept:
    """What an informer remembers."""

    objects: list[Document] = field(default_factory=list)

    def get(self, namespace: str, name: str) -> Document | None:
        wanted = (namespace, name)
        found = ((one["metadata"]["namespace"], one["metadata"]["name"]) for one in self.objects)
        return next((one for one, at in zip(self.objects, found, strict=True) if at == wanted), None)

    def by_index(self, _: str, __: str) -> Sequence[Document]:
        return []

    def list(self) -> Sequence[Document]:
        return self.objects


def documents(case: Case, kind: str) -> Iterator[Document]:
    for document in yaml.safe_load_all(case.file.read_text()):
        if document["kind"] == kind:
            document["metadata"].setdefault("namespace", "default")
            yield document | {"metadata": {**document["metadata"], "uid": "u", "generation": 1}}


def resolved(model_set: Document) -> Document:
    """As the ModelSet's controller writes its status."""
    models = []
    for model in ModelSetSpec.model_validate(model_set["spec"]).models:
        name = model.model or model.name
        shape = shape_of(name)
        digest = "sha256:" + f"{sum(map(ord, name)):064x}"
        known = {"name": model.name, "reference": f"registry.test/library/{name}", "digest": digest, "ready": True}
        header = to_document(shape).model_dump(mode="json", by_alias=True, exclude_none=True)
        models.append({**known, "size": shape.file_bytes, "header": header})
    return {**model_set, "status": {"observedGeneration": 1, "models": models}}


def by_the_operator(case: Case) -> dict[str, Plan]:
    """Through the controller's own reading of objects as the API server sends them."""
    nodes = [
        {
            "metadata": {"name": f"node-{number}", "labels": {"nvidia.com/gpu.memory": str(case.memory)}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"nvidia.com/gpu": str(case.gpus)},
            },
        }
        for number in range(case.nodes)
    ]
    sets = Kept([resolved(one) for one in documents(case, "ModelSet")])
    empty = Kept()
    caches = cast(
        "Caches",
        SimpleNamespace(model_sets=sets, nodes=Kept(nodes), deployments=empty, config_maps=empty, pods=empty),
    )
    controller = object.__new__(OllamaDeploymentController)
    controller.caches = caches
    controller.observer = Observer(caches, cast("Any", None))
    controller.measurements = cast("Any", SimpleNamespace(calibration=Calibration()))
    controller.nodes = Nodes(caches, cast("Any", SimpleNamespace(of=lambda _: None)))
    controller.policy = ImagePolicy(fleet_image="ollama-fleet")
    controller.fleet_namespaces = ("ollama-fleet",)
    controller.now = cast("Any", lambda: None)
    plans = {}
    for live in documents(case, "OllamaDeployment"):
        spec = OllamaDeploymentSpec.model_validate(live["spec"])
        metadata = live["metadata"]
        plans[f"{metadata['namespace']}/{metadata['name']}"] = plan_deployment(
            controller._request(live, spec, {}, None)
        )
    return plans


def summary(plan: Plan) -> Document:
    return {
        "groups": [
            {
                "name": group.name,
                "replicas": group.replicas,
                "parallel": group.config.num_parallel,
                "kvCacheType": group.options.kv_type,
                "slots": {model.name: model.parallel for model in group.config.models},
                "planned": dict(group.planned),
                "hostMemory": {"request": group.memory.request, "limit": group.memory.limit},
                "environment": {setting.name: setting.value for setting in group.environment},
            }
            for group in plan.groups
        ],
        "effective": sorted(
            (one.to_wire() for one in plan.effective if one.name not in {"gpuMemory", "image"}),
            key=lambda one: (one["name"], one["value"]),
        ),
        "problems": [problem.message for problem in (*plan.problems, *plan.left_out)],
    }


def by_the_command_line(case: Case, capsys: pytest.CaptureFixture[str]) -> dict[str, Document]:
    servers = case.nodes * case.gpus
    count = next((d["spec"]["hardware"].get("gpu", {}).get("count", 1) for d in documents(case, "OllamaDeployment")), 1)
    arguments = ["-f", str(case.file), "--offline", *case.option, "--servers", str(servers // count), "-o", "json"]
    main(["plan", *arguments])
    shown = json.loads(capsys.readouterr().out)
    return {
        name if "/" in name else f"default/{name}": {
            "groups": [
                {
                    **{
                        key: group[key]
                        for key in ("name", "replicas", "parallel", "kvCacheType", "hostMemory", "environment")
                    },
                    "slots": {model: row["slots"] for model, row in group["models"].items()},
                    "planned": {model: row["planned"] for model, row in group["models"].items() if row["planned"]},
                }
                for group in one["groups"]
            ],
            "effective": sorted(
                (value for value in one["effective"] if value["name"] not in {"gpuMemory", "image"}),
                key=lambda value: (value["name"], value["value"]),
            ),
            "problems": [problem["message"] for problem in one["problems"]],
        }
        for name, one in shown.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_both_give_the_agreed_answer(
    case: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    operator = {name: summary(plan) for name, plan in by_the_operator(CASES[case]).items()}
    assert by_the_command_line(CASES[case], capsys) == operator
    agree(json.dumps(operator, indent=1, sort_keys=True) + "\n", f"plan/{case}.json", request)
