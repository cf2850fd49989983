"""Which served model an entry of ``/api/ps`` stands for.

Ollama runs one runner per weights file and lists it under the name that loaded it: of several names over the same
weights, all are in memory as soon as one is, and only one is seen.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ollama_fleet.sidecar.ollama import Resident
from ollama_fleet.store.install import Store
from ollama_fleet.store.manifest import LAYER_MODEL, parse_manifest


class Residents:
    """Finds models among what is in memory."""

    def __init__(self, digests: Mapping[str, str] | None = None, *, models: Path = Path()) -> None:
        """``digests`` are those of the installed manifests by served name, ``models`` is the store they are in."""
        digests = digests or {}
        self._weights = {name: _weights(models, name) for name in digests}
        self._digests = {
            name: (own, *(digests[other] for other in digests if other != name and self._same(other, name)))
            for name, own in digests.items()
        }

    def weights(self) -> dict[str, str]:
        """Digests of the weights (of their first file) of the models that are installed, by name."""
        return {name: digests[0] for name, digests in self._weights.items()}

    def find(self, name: str, resident: Iterable[Resident]) -> Resident | None:
        """The entry of a model, under its own digest if it is there; None when it is not in memory."""
        known = {entry.digest: entry for entry in resident}
        return next((known[digest] for digest in self._digests.get(name, ()) if digest in known), None)

    def _same(self, one: str, other: str) -> bool:
        return self._weights[one] == self._weights[other]


def _weights(models: Path, name: str) -> tuple[str, ...]:
    manifest = parse_manifest(Store.at(models).manifests.manifest_path(name).read_bytes())
    return tuple(layer.digest for layer in manifest.of_type(LAYER_MODEL))
