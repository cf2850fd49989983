"""The models that a pod serves, by the names that clients may use."""

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus

from ollama_fleet.api.group import GroupModel
from ollama_fleet.sidecar.refusals import Refused


class Served:
    """Models by name; case and an explicit ``:latest`` do not count, as in Ollama."""

    def __init__(self, models: Iterable[GroupModel], *, weights: Mapping[str, str] | None = None) -> None:
        """Names are unique. ``weights`` are the digests of those that are installed."""
        self._models = {_key(model.name): model for model in models}
        self._weights = weights or {}

    def __iter__(self) -> Iterator[GroupModel]:
        return iter(self._models.values())

    def get(self, name: str) -> GroupModel | None:
        """The model of a name."""
        return self._models.get(_key(name))

    def runner(self, model: GroupModel) -> str:
        """Equal for names that share a runner of Ollama: those over the same weights."""
        return self._weights.get(model.name, model.manifest_digest)

    def find(self, name: str) -> GroupModel:
        """The model of a name. Raises Refused (404) with the words of Ollama."""
        found = self.get(name)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"model '{name[:128]}' not found")
        return found


def _key(name: str) -> str:
    return name.lower().removesuffix(":latest")
