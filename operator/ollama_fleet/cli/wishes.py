"""From a command line to what the operator's planner reads."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ollama_fleet.api.modelheader import ModelHeader
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel, SourceSpec
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.api.references import DEFAULT_REGISTRY, parse_reference
from ollama_fleet.cli.gpus import Card, InvalidGPU
from ollama_fleet.cli.sources import Found, Wanted
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.request import ClaimView, ImagePolicy, ModelSetView, PlanRequest
from ollama_fleet.sizing.gguf import InvalidHeader
from ollama_fleet.sizing.portable import to_document
from ollama_fleet.sizing.shape import ModelShape

_LIMIT_BYTES = 4 * 2**20

Name = tuple[str, str]
"""Namespace (empty where a manifest names none) and name."""


class InvalidWish(Exception):
    """What was given cannot be planned; the message names file, field and what is wrong."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """ModelSets and OllamaDeployments of the files."""

    model_sets: Mapping[Name, ModelSetSpec]
    deployments: Mapping[Name, OllamaDeploymentSpec]


@dataclass(frozen=True, slots=True)
class Known:
    """A survey whose answer was given."""

    inventory: Inventory | None

    def __call__(self) -> Inventory | None:
        """The answer."""
        return self.inventory


def read(paths: Sequence[Path], *, card: Card | None) -> Manifests:
    """Read manifests. Raises InvalidWish."""
    sets: dict[Name, ModelSetSpec] = {}
    deployments: dict[Name, OllamaDeploymentSpec] = {}
    for path in paths:
        for document in _documents(path):
            kind, metadata = document.get("kind"), document.get("metadata") or {}
            if not isinstance(metadata, dict):
                raise InvalidWish(f"{path}: {kind}: metadata has no name in it")
            name = (str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))
            try:
                if kind == "ModelSet":
                    sets[name] = ModelSetSpec.model_validate(document.get("spec", {}))
                elif kind == "OllamaDeployment":
                    deployments[name] = OllamaDeploymentSpec.model_validate(document.get("spec", {}))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"])
                raise InvalidWish(f"{path}: {kind} {name[1]}: spec.{field}: {first['msg']}") from error
    if not sets:
        raise InvalidWish(f"{', '.join(map(str, paths))}: no ModelSet in it")
    return Manifests(sets, deployments or _on_gpus(sets, card))


def single(model: str, *, context: int | None, parallel: int | None, card: Card | None) -> Manifests:
    """One model on one server."""
    entry: dict[str, Any] = {"name": _served(model), "contextLength": context, "parallel": parallel}
    spec = {"models": [{key: value for key, value in entry.items() if value is not None}]}
    try:
        sets = {("", "plan"): ModelSetSpec.model_validate(spec)}
    except ValidationError as error:
        raise InvalidWish(f"{model}: {error.errors()[0]['msg']}") from error
    return Manifests(sets, _on_gpus(sets, card))


def _served(model: str) -> str:
    """Of a file, what of its name may be the name of a model."""
    if not model.endswith(".gguf"):
        return model
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model).stem).strip("-.")[:80] or "model"


def wanted(manifests: Manifests, *, file: str | None) -> list[Wanted]:
    """Whose headers are needed; ``file`` stands for the only model."""
    return [
        Wanted(
            reference=file or model.model or model.name,
            registry=(spec.source or SourceSpec()).registry or DEFAULT_REGISTRY,
            insecure=bool((spec.source or SourceSpec()).insecure),
        )
        for spec in manifests.model_sets.values()
        for model in spec.models
    ]


def requests(
    manifests: Manifests, found: Sequence[Found], card: Card | None, *, servers: int
) -> dict[Name, PlanRequest]:
    """What the planner reads, by OllamaDeployment. Raises InvalidGPU where it is not said which GPUs there are."""
    shapes = iter(found)
    views = {
        (namespace, name): ModelSetView(name, spec, _status(spec, [next(shapes) for _ in spec.models]), generation=1)
        for (namespace, name), spec in manifests.model_sets.items()
    }
    return {
        (namespace, name): PlanRequest(
            namespace=namespace or "default",
            name=name,
            spec=spec,
            model_sets={reference.name: views.get((namespace, reference.name)) for reference in spec.model_sets},
            policy=ImagePolicy(fleet_image="ollama-fleet"),
            survey=Known(_inventory(name, spec, card, servers)),
            claim=ClaimView(frozenset({"ReadWriteMany"})),
        )
        for (namespace, name), spec in manifests.deployments.items()
    }


def changed(request: PlanRequest, *, kv: str | None, version: str | None) -> PlanRequest:
    """The request with what the command line says on top. Raises InvalidWish."""
    if kv is None and version is None:
        return request
    wire = request.spec.to_wire()
    if "hardware" not in request.spec.model_fields_set:
        wire.pop("hardware", None)
    tuning = dict(wire.get("tuning") or {})  # type: ignore[call-overload]
    tuning |= {"kvCacheType": kv} if kv else {}
    wire |= ({"tuning": tuning} if tuning else {}) | ({"version": version} if version else {})
    try:
        return replace(request, spec=OllamaDeploymentSpec.model_validate(wire))
    except ValidationError as error:
        raise InvalidWish(f"--ollama {version}: {error.errors()[0]['msg']}") from error


def _inventory(name: str, spec: OllamaDeploymentSpec, card: Card | None, servers: int) -> Inventory | None:
    if spec.hardware.gpu is None:
        return None
    if card is None:
        raise InvalidGPU(f"{name} runs on GPUs: say which with --gpu 24Gi or --gpu-product L4")
    return card.inventory(spec.hardware.gpu, servers=servers)


def _status(spec: ModelSetSpec, found: Sequence[Found]) -> ModelSetStatus:
    """As the operator would have written it."""
    return ModelSetStatus(
        observed_generation=1,
        models=[
            ResolvedModel(
                name=model.name,
                reference=str(parse_reference("library/planned")),
                # Names over the same file must be recognised: the reference stands for the content.
                digest=f"sha256:{hashlib.sha256((model.model or model.name).encode()).hexdigest()}",
                weights=one.weights,
                size=one.shape.file_bytes,
                ready=True,
                header=_header(model.name, one.shape),
            )
            for model, one in zip(spec.models, found, strict=True)
        ],
    )


def _header(name: str, shape: ModelShape) -> ModelHeader:
    try:
        return to_document(shape)
    except InvalidHeader as error:
        raise InvalidWish(f"{name}: {error}") from error


def _on_gpus(sets: Mapping[Name, ModelSetSpec], card: Card | None) -> dict[Name, OllamaDeploymentSpec]:
    """One deployment of each namespace's sets, where no manifest has one."""
    gpu = {"count": (card.count if card else None) or 1}
    by_namespace: dict[str, list[dict[str, str]]] = {}
    for namespace, name in sets:
        by_namespace.setdefault(namespace, []).append({"name": name})
    return {
        (namespace, "plan"): OllamaDeploymentSpec.model_validate({"modelSets": names, "hardware": {"gpu": gpu}})
        for namespace, names in by_namespace.items()
    }


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise InvalidWish(f"{path}: larger than {_LIMIT_BYTES} bytes")
        found = list(yaml.safe_load_all(path.read_text()))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidWish(f"{path}: {error}") from error
    return [document for document in found if isinstance(document, dict)]
