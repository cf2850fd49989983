"""Typed access to the metadata of a GGUF header: values of the wrong kind are errors that name their key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.sizing.gguf import MAX_KEPT, Array, InvalidHeader, Value

MAX_LAYERS: Final = 1024
"""The deepest models have some hundred."""
_LARGEST: Final = 2**40


@dataclass(frozen=True, slots=True)
class Metadata:
    """The keys of one architecture; names are given without its prefix."""

    values: Mapping[str, Value]

    @property
    def architecture(self) -> str:
        """``general.architecture``. Raises InvalidHeader where it is missing."""
        found = self.values.get("general.architecture")
        if not isinstance(found, str) or not found:
            raise InvalidHeader("general.architecture is missing: this is no model")
        return found

    def has(self, name: str) -> bool:
        """Whether the key is there."""
        return self._key(name) in self.values

    def number(self, name: str, default: int = 0) -> int:
        """A count; an array stands for its largest element."""
        found = self.values.get(self._key(name))
        if found is None:
            return default
        if isinstance(found, Array):
            return max((self._checked(name, value) for value in found.values), default=default)
        return self._checked(name, found)

    def required(self, name: str) -> int:
        """A positive count. Raises InvalidHeader where it is missing or 0."""
        value = self.number(name)
        if value < 1:
            raise InvalidHeader(f"{self._key(name)} is missing or 0")
        return value

    def per_layer(self, name: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """One value per layer: an array, or the same value for all."""
        found = self.values.get(self._key(name))
        if not isinstance(found, Array):
            return (self.number(name, default),) * layers
        if len(found.values) < layers:
            raise InvalidHeader(f"{self._key(name)} has {found.length} elements for {layers} layers")
        return tuple(self._checked(name, value) for value in found.values[:layers])

    def array_length(self, key: str) -> int:
        """Elements of an array, given by its whole key; 0 where there is none."""
        found = self.values.get(key)
        return found.length if isinstance(found, Array) else 0

    def array(self, name: str) -> tuple[int, ...] | None:
        """The elements of an array; None where the key is no array. Raises InvalidHeader where none is kept."""
        found = self.values.get(self._key(name))
        if not isinstance(found, Array):
            return None
        if not found.values:
            raise InvalidHeader(f"{self._key(name)} has {found.length} elements: 1 to {MAX_KEPT} numbers were expected")
        return tuple(self._checked(name, value) for value in found.values)

    def _key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def _checked(self, name: str, value: Value) -> int:
        if not isinstance(value, int) or not 0 <= value <= _LARGEST:
            raise InvalidHeader(f"{self._key(name)} is {value!r}: a count was expected")
        return int(value)
