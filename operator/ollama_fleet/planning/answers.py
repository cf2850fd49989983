"""What an entry of a ModelSet asks its registry for, and whether an answer is one to that. Pure."""

from dataclasses import replace

from ollama_fleet.api.modelset import ModelSetSpec, ModelSpec, ResolvedModel, SourceSpec
from ollama_fleet.api.references import DEFAULT_REGISTRY, ModelReference, parse_reference


def model_reference(spec: ModelSetSpec, model: ModelSpec) -> ModelReference:
    """The model. Raises InvalidReference."""
    written = _parse(model.model or model.name, spec)
    return replace(written, digest=model.digest or written.digest)


def adapter_reference(spec: ModelSetSpec, model: ModelSpec) -> ModelReference | None:
    """The adapter, where the entry names one. Raises InvalidReference."""
    text = model.modelfile.adapter if model.modelfile else None
    return _parse(text, spec) if text else None


def answers(resolved: ResolvedModel, spec: ModelSetSpec, model: ModelSpec) -> bool:
    """Whether the registry was asked for exactly this entry, with success. Raises InvalidReference."""
    adapter = adapter_reference(spec, model)
    wanted = str(adapter) if adapter else ""
    same = resolved.adapter == wanted or (bool(wanted) and resolved.adapter.startswith(f"{wanted}@"))
    return resolved.ready and resolved.reference == str(model_reference(spec, model)) and same


def _parse(text: str, spec: ModelSetSpec) -> ModelReference:
    source = spec.source or SourceSpec()
    written = parse_reference(text, registry=source.registry or DEFAULT_REGISTRY)
    return replace(written, scheme="http" if source.insecure else written.scheme)
