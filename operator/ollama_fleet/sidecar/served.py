"""The models that a pod serves, by the names that clients may use."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus

from ollama_fleet.api.group import GroupModel
from ollama_fleet.sidecar.refusals import Refused


class Served:
    """Models by name; case and an explicit ``:latest`` do not count, as in Ollama."""

    def __init__(self, models: Iterable[GroupModel]) -> None:
        """Names are unique."""
        self._models = {_key(model.name): model for model in models}

    def __iter__(self) -> Iterator[GroupModel]:
        return iter(self._models.values())

    def get(self, name: str) -> GroupModel | None:
        """The model of a name."""
        return self._models.get(_key(name))

    def find(self, name: str) -> GroupModel:
        """The model of a name. Raises Refused (404) with the words of Ollama."""
        found = self.get(name)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"model '{name[:128]}' not found")
        return found


def _key(name: str) -> str:
    return name.lower().removesuffix(":latest")
