"""Derived manifests: a registry's manifest with the Modelfile parts of the spec laid over it.

What Ollama's ``create`` does (``server/create.go``, v0.32.3), in the same order: adapter appended, template replaced,
system replaced, parameters merged (the spec's win) and replaced. Deterministic, so the digest is known before anything
is written. Two differences: the config blob stays the source's (``create`` rewrites its ``rootfs``, which nothing
reads), and ``from`` fields go (they hold a path on the pusher's machine).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from ollama_fleet.api.group import GroupModel, Modelfile
from ollama_fleet.store.errors import InvalidManifest, InvalidModelfile
from ollama_fleet.store.manifest import (
    LAYER_ADAPTER,
    LAYER_PARAMS,
    LAYER_SYSTEM,
    LAYER_TEMPLATE,
    Descriptor,
    Manifest,
    digest_of,
)
from ollama_fleet.store.parameters import encode_parameters, parse_parameters

PARAMS_LIMIT: Final = 1024 * 1024
"""Bytes of a params layer."""


@dataclass(frozen=True, slots=True)
class DerivedManifest:
    """A manifest and the contents of the layers that no registry has."""

    manifest: Manifest
    raw: bytes
    digest: str
    contents: tuple[bytes, ...]


def check_modelfile(modelfile: Modelfile, context_length: int | None) -> dict[str, object]:
    """The spec's parameters as they go into the params layer. Raises `InvalidModelfile` naming what is wrong."""
    parameters: dict[str, object] = dict(parse_parameters(modelfile.parameters))
    if context_length is not None:
        if parameters.get("num_ctx", context_length) != context_length:
            raise InvalidModelfile(
                f"parameter 'num_ctx' is {parameters['num_ctx']} but the model's contextLength is {context_length}; "
                "set contextLength only"
            )
        parameters["num_ctx"] = context_length
    return parameters


def params_layers(source: Manifest) -> tuple[Descriptor, ...]:
    """The layers whose content `derive` needs. Raises `InvalidManifest` when they are unreasonably large."""
    layers = source.of_type(LAYER_PARAMS)
    if any(layer.size > PARAMS_LIMIT for layer in layers):
        raise InvalidManifest(f"manifest: a params layer is larger than {PARAMS_LIMIT} bytes")
    return layers


def derive(
    model: GroupModel, source: Manifest, *, params: Iterable[bytes] = (), adapter: Manifest | None = None
) -> DerivedManifest:
    """Lay the model's Modelfile parts over its source.

    ``params`` are the contents of `params_layers`, ``adapter`` the manifest that ``modelfile.adapter`` names. Raises
    `InvalidModelfile` or `InvalidManifest`.
    """
    layers = [*source.layers, *_adapter_layers(model, adapter)]
    contents: list[bytes] = []

    def put(media_type: str, content: bytes) -> None:
        contents.append(content)
        layers[:] = [layer for layer in layers if layer.media_type != media_type]
        layers.append(Descriptor(media_type, digest_of(content), len(content)))

    if model.modelfile.template:
        put(LAYER_TEMPLATE, model.modelfile.template.encode())
    if model.modelfile.system:
        put(LAYER_SYSTEM, model.modelfile.system.encode())
    parameters = check_modelfile(model.modelfile, model.context_length)
    for content in params:
        parameters = {**_source_parameters(content), **parameters}
    if parameters:
        put(LAYER_PARAMS, encode_parameters(parameters))
    manifest = replace(source, layers=tuple(layers))
    raw = manifest.encode()
    return DerivedManifest(manifest, raw, digest_of(raw), tuple(contents))


def _adapter_layers(model: GroupModel, adapter: Manifest | None) -> tuple[Descriptor, ...]:
    if adapter is None:
        return ()
    layers = adapter.of_type(LAYER_ADAPTER)
    if not layers:
        raise InvalidManifest(f"{model.name}: {model.modelfile.adapter} has no layer of type {LAYER_ADAPTER}")
    return layers


def _source_parameters(content: bytes) -> dict[str, object]:
    try:
        parameters = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest("params layer is not JSON") from error
    if not isinstance(parameters, dict):
        raise InvalidManifest("params layer is not a JSON object")
    return parameters


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
