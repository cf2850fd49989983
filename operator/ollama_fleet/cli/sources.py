"""Where the header of a model comes from: a file, its registry, or the bundled catalogue."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ollama_fleet.api.references import InvalidReference, ModelReference, parse_reference
from ollama_fleet.cli import catalogue
from ollama_fleet.sizing.gguf import InvalidHeader
from ollama_fleet.sizing.shape import ModelShape

BUNDLED: Final = "bundled catalogue"


class UnknownModel(Exception):
    """No header was found; the message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model to look up."""

    reference: str
    """As a ModelSet names it, or the path of a GGUF file."""
    registry: str
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A header and where it was found."""

    shape: ModelShape
    source: str
    note: str = ""
    """Why it does not come from where it was looked for first."""
    weights: str | None = None
    """Digest of the file with the weights, where a registry named it."""


def look_up(wanted: Sequence[Wanted], *, offline: bool) -> list[Found]:
    """All headers, in order; registries are asked side by side. Raises UnknownModel."""
    answers: list[Found | UnknownModel] = [_near(one, offline=offline) for one in wanted]
    missing = [index for index, answer in enumerate(answers) if isinstance(answer, UnknownModel)]
    if missing and not offline:
        for index, answer in zip(missing, asyncio.run(_far([wanted[i] for i in missing])), strict=True):
            answers[index] = answer
    found = []
    for one, answer in zip(wanted, answers, strict=True):
        found.append(answer if isinstance(answer, Found) else _bundled(one, answer, asked=not offline))
    return found


def _bundled(wanted: Wanted, otherwise: UnknownModel, *, asked: bool) -> Found:
    shape = catalogue.look_up(wanted.reference)
    if shape is None:
        raise otherwise
    return Found(shape, BUNDLED, note=str(otherwise) if asked else "")


def _near(wanted: Wanted, *, offline: bool) -> Found | UnknownModel:
    path = Path(wanted.reference)
    if path.suffix != ".gguf":
        hint = f"the bundled catalogue has {', '.join(catalogue.known())}"
        return UnknownModel(f"{wanted.reference}: {hint if offline else 'not looked up yet'}")
    # Only now: a plan from the catalogue must not wait for the store's imports.
    from ollama_fleet.store.headers import file_shape  # noqa: PLC0415

    try:
        return Found(file_shape(path), "file")
    except (OSError, InvalidHeader) as error:
        raise UnknownModel(f"{path}: {error}") from error


async def _far(wanted: Sequence[Wanted]) -> list[Found | UnknownModel]:
    return list(await asyncio.gather(*(_ask(one) for one in wanted)))


async def _ask(wanted: Wanted) -> Found | UnknownModel:
    try:
        from ollama_fleet.store.credentials import DockerConfig  # noqa: PLC0415
        from ollama_fleet.store.errors import StoreError  # noqa: PLC0415
        from ollama_fleet.store.headers import remote_shape  # noqa: PLC0415
        from ollama_fleet.store.manifest import LAYER_MODEL, require_model  # noqa: PLC0415
        from ollama_fleet.store.registry import RegistryClient  # noqa: PLC0415
    except ImportError as error:
        hint = f"{error.name} is not installed: pip install 'ollama-fleet[cli]', or use --offline"
        return UnknownModel(f"{wanted.reference}: registries cannot be asked, {hint}")
    try:
        reference = _reference(wanted)
        async with RegistryClient(docker_config=lambda: DockerConfig({}), tls=None) as registry:
            found = await registry.resolve(reference)
            require_model(found.manifest, str(reference))
            shape = await remote_shape(registry, reference, found.manifest)
            weights = found.manifest.of_type(LAYER_MODEL)[0].digest
            return Found(shape, f"registry {reference.host}", weights=weights)
    except (StoreError, InvalidHeader, InvalidReference) as error:
        return UnknownModel(f"{wanted.reference}: {error}")


def _reference(wanted: Wanted) -> ModelReference:
    reference = parse_reference(wanted.reference, registry=wanted.registry)
    return replace(reference, scheme="http") if wanted.insecure else reference
