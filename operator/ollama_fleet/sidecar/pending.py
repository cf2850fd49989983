"""What a new configuration may put into force: nothing that is served goes before what follows it is there."""

import logging
from collections.abc import Iterable
from pathlib import Path

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.store.errors import StoreError
from ollama_fleet.store.install import Store, derived_manifest, put_derived_layers

logger = logging.getLogger(__name__)


def possible(config: GroupConfig, *, held: Iterable[GroupModel], models: Path) -> GroupConfig:
    """The configuration, with models whose files are missing left as they are ``held``.

    Those files may never come: a pull that fails must not end what is served, and with a cache of the pod's own they
    come in another pod, which replaces this one.
    """
    store, old = Store.at(models), {model.name: model for model in held}
    kept = tuple(
        old[model.name] if model.name in old and not _installable(store, model) else model for model in config.models
    )
    return config.model_copy(update={"models": kept})


def _installable(store: Store, model: GroupModel) -> bool:
    try:
        derived = derived_manifest(store.blobs, model)
        if derived is not None:
            put_derived_layers(store.blobs, derived)
    except (StoreError, OSError) as error:
        logger.warning("model cannot be installed", extra={"model": model.name, "error": str(error)[:256]})
        return False
    return derived is not None
