"""What an informer remembers: objects by name, indices over them, and the difference a list makes."""

from collections.abc import Callable, Iterable, Mapping

from ollama_fleet.kube.transport import Json, Objects

Index = Callable[[Json], Iterable[str]]
"""The values under which an object is found."""
Name = tuple[str, str]
"""(namespace, name); the namespace of cluster-scoped objects is empty."""
Change = tuple[Json | None, Json | None]
"""(old, new); None stands for absent."""
Changes = list[Change]


def name_of(obj: Json) -> Name:
    """Where the cache keeps an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Cache:
    """Objects are shared with all readers and never changed in place."""

    def __init__(self, indices: Mapping[str, Index]) -> None:
        """``indices`` are fixed for life."""
        self._objects: dict[Name, Json] = {}
        self._functions = dict(indices)
        self._indices: dict[str, dict[str, dict[Name, None]]] = {name: {} for name in indices}

    def __len__(self) -> int:
        """The number of objects."""
        return len(self._objects)

    def get(self, name: Name) -> Json | None:
        """One object."""
        return self._objects.get(name)

    def select(self, namespace: str | None) -> Objects:
        """All objects, or those of a namespace."""
        if namespace is None:
            return list(self._objects.values())
        return [obj for (where, _), obj in self._objects.items() if where == namespace]

    def by_index(self, index: str, value: str) -> Objects:
        """The objects that the index function ``index`` put under ``value``."""
        return [self._objects[name] for name in self._indices[index].get(value, ())]

    def put(self, obj: Json) -> Changes:
        """Take an object in; returns what changed: nothing, one change, or a removal and an appearance.

        An older version changes nothing: a watch that goes on after a break may replay.
        """
        old = self._objects.get(name_of(obj))
        if old is not None and not _newer(obj, than=old):
            return []
        return self._put(obj, old)

    def drop(self, obj: Json) -> Changes:
        """Forget an object that the server says is gone; another one of the same name stays."""
        old = self._objects.get(name_of(obj))
        if old is None or _uid(old) != _uid(obj):
            return []
        self._remove(name_of(obj))
        return [(old, None)]

    def replace(self, objects: Iterable[Json]) -> Changes:
        """Make the list the truth: what it lacks is gone, whatever the versions say."""
        changes: Changes = []
        missing = dict.fromkeys(self._objects)
        for obj in objects:
            name = name_of(obj)
            missing.pop(name, None)
            old = self._objects.get(name)
            if old is None or _version(old) != _version(obj) or _uid(old) != _uid(obj):
                changes += self._put(obj, old)
        for name in missing:
            changes.append((self._remove(name), None))
        return changes

    def _put(self, obj: Json, old: Json | None) -> Changes:
        name = name_of(obj)
        if old is not None:
            self._remove(name)
        self._objects[name] = obj
        for index, function in self._functions.items():
            for value in function(obj):
                self._indices[index].setdefault(value, {})[name] = None
        if old is not None and _uid(old) != _uid(obj):
            return [(old, None), (None, obj)]
        return [(old, obj)]

    def _remove(self, name: Name) -> Json:
        obj = self._objects.pop(name)
        for index, function in self._functions.items():
            values = self._indices[index]
            for value in function(obj):
                names = values.get(value, {})
                names.pop(name, None)
                if not names:
                    values.pop(value, None)
        return obj


def _uid(obj: Json) -> str:
    return str(obj["metadata"].get("uid", ""))


def _version(obj: Json) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def _newer(obj: Json, *, than: Json) -> bool:
    new, old = _version(obj), _version(than)
    if new.isdecimal() and old.isdecimal():
        return int(new) > int(old)
    return new != old
