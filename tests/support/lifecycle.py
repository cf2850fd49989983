"""Both kinds in every state of their lives, with statuses that the controllers themselves made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import yaml

from ollama_fleet.api import names
from ollama_fleet.api.deploymentstatus import OllamaDeploymentStatus
from ollama_fleet.api.modelset import ModelSetStatus, ResolvedModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers import status
from ollama_fleet.controllers.conditions import Verdict, conditions
from ollama_fleet.controllers.modelset import judge as judge_set
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.pods import Trouble, view
from ollama_fleet.controllers.verdicts import judge
from ollama_fleet.manifests.names import Owner
from ollama_fleet.planning.planner import plan_deployment
from testbed.paths import ROOT
from tests.support.builders import model_set, ollama_deployment
from tests.support.plans import digest, request
from tests.support.plans import view as resolved

Document = dict[str, Any]

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GENERATION: Final = 3


class Stage(StrEnum):
    """A state of life, as somebody who waits for the object sees it."""

    CREATED = "created"
    """The operator has not seen it."""
    CHANGED = "changed"
    """Its status speaks of an older generation."""
    PROGRESSING = "progressing"
    SERVING = "serving"
    """On the way, with all servers in service."""
    STALLED = "stalled"
    HEALTHY = "healthy"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Living:
    """One object in one state."""

    stage: Stage
    document: Document

    def __str__(self) -> str:
        """Names a test's case."""
        return f"{self.document['kind']}-{self.stage}"


def everything() -> list[Living]:
    """Every kind in every stage that it can be in."""
    return [*_of(ollama_deployment(), _deployment_statuses()), *_of(model_set(), _set_statuses())]


def _of(wish: Document, statuses: Mapping[Stage, Document]) -> list[Living]:
    healthy = statuses[Stage.HEALTHY]
    made: dict[Stage, Document] = {
        **{stage: _at(wish, found) for stage, found in statuses.items()},
        Stage.CREATED: _at(wish, default_status(wish["kind"]), generation=1),
        Stage.CHANGED: _at(wish, healthy, generation=GENERATION + 1),
        Stage.DELETED: _at(wish, healthy, generation=GENERATION + 1, deletionTimestamp="2026-01-02T03:04:05Z"),
    }
    return [Living(stage, document) for stage, document in made.items()]


def _at(wish: Document, found: Document, *, generation: int = GENERATION, **metadata: Any) -> Document:
    return {**wish, "metadata": {**wish["metadata"], "generation": generation, **metadata}, "status": found}


def default_status(kind: str) -> Document:
    """What the API server writes into a new object, from the definition."""
    definition = yaml.safe_load((ROOT / "crds" / f"{kind.lower()}s.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    default: Document = schema["properties"]["status"]["default"]
    return default


def _deployment_statuses() -> dict[Stage, Document]:
    cold, warm = ModelPhase.LOADING, ModelPhase.WARM
    troubled = Trouble(Reason.IMAGE_PULL_FAILED, "no such image; check spec.version")
    made: dict[Stage, Callable[[], Document]] = {
        Stage.PROGRESSING: lambda: _deployment([_group(cold, cold, ready=False)]),
        Stage.SERVING: lambda: _deployment([_group(warm, cold)]),
        Stage.STALLED: lambda: _deployment([_group(cold, cold, ready=False, trouble=troubled)]),
        Stage.HEALTHY: lambda: _deployment([_group(warm, warm)]),
        Stage.SUSPENDING: lambda: _deployment([_group(warm, warm)], suspended=True),
        Stage.SUSPENDED: lambda: _deployment([], suspended=True),
    }
    return {stage: make() for stage, make in made.items()}


def _deployment(groups: Sequence[ObservedGroup], *, suspended: bool = False) -> Document:
    plan = plan_deployment(request(resolved({"name": "a"}, {"name": "b"}), suspend=suspended))
    verdict = judge(plan, groups, suspended=suspended)
    built = status.build(
        plan,
        status.in_force(plan, {}, groups, previous=OllamaDeploymentStatus()),
        groups,
        verdict=verdict,
        vram="",
        previous=OllamaDeploymentStatus(),
        owner=Owner("ns", "chat", "u"),
        generation=GENERATION,
        now=NOW,
    )
    return built.to_wire()


def _group(*phases: ModelPhase, ready: bool = True, trouble: Trouble | None = None) -> ObservedGroup:
    pod = {
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "labels": {names.LABEL_GROUP: "g0"}},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
    deployment = {
        "metadata": {"generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1},
    }
    config = plan_deployment(request(resolved({"name": "a"}, {"name": "b"}))).groups[0].config
    models = tuple(ModelState(name=name, phase=phase) for name, phase in zip("ab", phases, strict=True))
    seen = SidecarState(sequence=1, config_hash=config.hash(), ready=ready, models=models)
    return ObservedGroup("g0", deployment, (ObservedPod(view(pod), trouble, seen),))


def _set_statuses() -> dict[Stage, Document]:
    known = ResolvedModel(name="chat", reference="r", digest=digest("a"), size=5, ready=True)
    away = ResolvedModel(name="chat", reason=Reason.REGISTRY_UNREACHABLE, message="registry away; tried again")
    missing = ResolvedModel(name="chat", reason=Reason.MODEL_NOT_FOUND, message="no such model; check the name")
    return {
        stage: _set([model])
        for stage, model in ((Stage.PROGRESSING, away), (Stage.STALLED, missing), (Stage.HEALTHY, known))
    }


def _set(models: list[ResolvedModel]) -> Document:
    verdict: Verdict = judge_set(models)
    return ModelSetStatus(
        observed_generation=GENERATION,
        conditions=conditions(verdict, previous=(), generation=GENERATION, now=NOW),
        models=models,
    ).to_wire()
