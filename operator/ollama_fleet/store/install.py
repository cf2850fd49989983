"""Manifests of a group: which names a server knows, once their blobs are there.

The invariant: a manifest never exists without all its blobs, each verified. Source manifests are kept as blobs under
their own digest, so a pod starts again without asking a registry.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.references import InvalidReference, ModelReference, parse_reference
from ollama_fleet.store.derive import PARAMS_LIMIT, DerivedManifest, derive, params_layers
from ollama_fleet.store.errors import InvalidModelfile, StoreError
from ollama_fleet.store.layout import BlobDirectory, ManifestDirectory
from ollama_fleet.store.manifest import Descriptor, Manifest, parse_manifest, require_model

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Store:
    """``OLLAMA_MODELS`` of a pod."""

    blobs: BlobDirectory
    manifests: ManifestDirectory

    @classmethod
    def at(cls, models_dir: Path) -> "Store":
        """The store below a directory."""
        return cls(BlobDirectory(models_dir / "blobs"), ManifestDirectory(models_dir / "manifests"))


def reference_of(model: GroupModel) -> ModelReference:
    """Where the model comes from, pinned by its digest. Raises `InvalidModelfile`."""
    tag = f":{model.tag}" if model.tag else ""
    return _parse(model, f"{model.registry}/{model.repository}{tag}@{model.manifest_digest}")


def adapter_of(model: GroupModel) -> ModelReference | None:
    """The adapter, pinned by its digest. Raises `InvalidModelfile`."""
    if model.modelfile.adapter is None:
        return None
    reference = _parse(model, model.modelfile.adapter)
    if reference.digest is None:
        raise InvalidModelfile(f"{model.name}: adapter {model.modelfile.adapter!r} has no digest; it must be resolved")
    return reference


def _parse(model: GroupModel, text: str) -> ModelReference:
    try:
        reference = parse_reference(text, registry=model.registry)
    except InvalidReference as error:
        raise InvalidModelfile(f"{model.name}: {error}") from error
    return replace(reference, scheme="http") if model.insecure else reference


def cached_manifest(blobs: BlobDirectory, digest: str) -> Manifest | None:
    """A source manifest that was stored earlier. Raises `DigestMismatch` or `InvalidManifest`."""
    raw = blobs.read(digest)
    return None if raw is None else parse_manifest(raw)


def source_manifests(blobs: BlobDirectory, model: GroupModel) -> tuple[Manifest, Manifest | None] | None:
    """The model's manifest and its adapter's from the cache; None when one is not there."""
    adapter_reference = adapter_of(model)
    source = cached_manifest(blobs, model.manifest_digest)
    if source is None:
        return None
    require_model(source, model.name)
    if adapter_reference is None:
        return source, None
    adapter = cached_manifest(blobs, adapter_reference.digest or "")
    return None if adapter is None else (source, adapter)


def needed_blobs(source: Manifest, adapter: Manifest | None) -> tuple[Descriptor, ...]:
    """What must be downloaded: all of the model, the layers of the adapter."""
    blobs = (*source.blobs, *(adapter.layers if adapter else ()))
    return tuple({blob.digest: blob for blob in blobs}.values())


def derived_manifest(blobs: BlobDirectory, model: GroupModel) -> DerivedManifest | None:
    """What the model's manifest will be; None when something that it is made of is missing or not verified.

    Raises `StoreError` when it can never be.
    """
    found = source_manifests(blobs, model)
    if found is None or not all(map(blobs.has, needed_blobs(*found))):
        return None
    source, adapter = found
    params = [blobs.read(layer.digest, limit=PARAMS_LIMIT) or b"" for layer in params_layers(source)]
    return derive(model, source, params=params, adapter=adapter)


def put_derived_layers(blobs: BlobDirectory, derived: DerivedManifest) -> None:
    """Store the layers that no registry has. Raises `OSError`, e.g. on a read-only cache that lacks one."""
    for content in derived.contents:
        blobs.put(content)


def install(store: Store, model: GroupModel) -> str | None:
    """Write the model's manifest if all its blobs are there; returns the digest that Ollama reports for it."""
    derived = derived_manifest(store.blobs, model)
    if derived is None:
        return None
    put_derived_layers(store.blobs, derived)
    return store.manifests.write(model.name, derived.raw)


def install_manifests(config: GroupConfig, models_dir: Path) -> dict[str, str]:
    """Write the manifests of all models whose blobs are there, remove those of models no longer in the configuration.

    Returns the digests, as Ollama reports them, by served name. What cannot be installed is left out and logged.
    """
    store = Store.at(models_dir)
    store.manifests.keep_only(frozenset(model.name for model in config.models))
    installed: dict[str, str] = {}
    for model in config.models:
        try:
            digest = install(store, model)
        except (StoreError, OSError) as error:
            _LOG.warning("model cannot be installed: model=%s error=%s", model.name, error)
            continue
        if digest is not None:
            installed[model.name] = digest
    return installed
