"""What was measured after loads, which is worth more than any formula.

A pure object: the operator keeps it in a ConfigMap. It never grows beyond its bound, and an entry only speaks for the
very options it was measured with.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from ollama_fleet.sizing.estimate import Estimate, Part

MAX_ENTRIES: Final = 512
_LEAST_SPREAD: Final = 0.02
"""Of the figure: what two loads of the same model differ by."""
_PER_OUT_OF_MEMORY: Final = 0.10
_MOST_OUT_OF_MEMORY: Final = 5


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Everything that decides what a load takes."""

    weights: str
    """Digest of the model's manifest."""
    context: int
    """Tokens per slot."""
    parallel: int
    kv_type: str
    flash_attention: bool
    gpu: str
    """Product of the GPUs."""
    gpus: int
    ollama: str
    """Minor version, e.g. ``0.32``."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen for a key."""

    low: int = 0
    """Bytes over all GPUs of the smallest load."""
    high: int = 0
    """Of the largest."""
    count: int = 0
    out_of_memory: int = 0
    """Loads that found too little memory since the last one that worked."""
    turn: int = 0
    """When it was last heard of, counted in recordings: the oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """All measurements."""

    entries: Mapping[Key, Measured] = field(default_factory=dict)
    turn: int = 0

    def record(self, key: Key, size: int) -> "Calibration":
        """With one more load that took ``size`` bytes over all GPUs."""
        if size <= 0:
            raise ValueError(f"{size} bytes: a load takes more than nothing")
        before = self.entries.get(key, Measured())
        low = min(before.low, size) if before.count else size
        return self._with(key, Measured(low, max(before.high, size), before.count + 1))

    def out_of_memory(self, key: Key) -> "Calibration":
        """With a load that found too little memory: the reserve grows until one works."""
        before = self.entries.get(key, Measured())
        failed = min(before.out_of_memory + 1, _MOST_OUT_OF_MEMORY)
        return self._with(key, replace(before, out_of_memory=failed))

    def only(self, versions: Iterable[str]) -> "Calibration":
        """Without entries of Ollama versions (``0.32``) that nobody runs any more."""
        used = frozenset(versions)
        return replace(self, entries={key: value for key, value in self.entries.items() if key.ollama in used})

    def correct(self, guess: Estimate, key: Key) -> Estimate:
        """The estimate with what was measured in its place; unchanged where nothing was."""
        found = self.entries.get(key)
        if found is None:
            return guess
        caution = 1 + _PER_OUT_OF_MEMORY * found.out_of_memory
        if not found.count:
            return replace(guess, reserve_per_gpu=tuple(int(value * caution) for value in guess.reserve_per_gpu))
        ratio = found.high / guess.total
        spread = max(found.high - found.low, int(_LEAST_SPREAD * found.high))
        per_gpu = tuple(int(value * ratio) for value in guess.per_gpu)
        share = spread // len(per_gpu)
        return replace(
            guess,
            parts=(Part("measured", found.high, f"largest of {found.count} loads", "measured"),),
            per_gpu=per_gpu,
            reserve_per_gpu=tuple(int((value + share) * caution) for value in per_gpu),
        )

    def to_wire(self) -> str:
        """JSON, sorted: the same measurements give the same text."""
        entries = [{**asdict(key), **asdict(value)} for key, value in sorted(self.entries.items())]
        return json.dumps({"turn": self.turn, "entries": entries}, separators=(",", ":"))

    @classmethod
    def from_wire(cls, text: str) -> "Calibration":
        """What ``to_wire`` wrote; entries that make no sense are dropped, for a measurement can be made again."""
        try:
            document = json.loads(text)
            raw, turn = document["entries"][:MAX_ENTRIES], int(document["turn"])
        except (ValueError, TypeError, KeyError):
            return cls()
        entries = {}
        for one in raw:
            try:
                key = Key(**{name: one[name] for name in Key.__slots__})
                entries[key] = _measured(one)
            except (TypeError, KeyError, ValueError):
                continue
        return cls(entries, turn)

    def _with(self, key: Key, value: Measured) -> "Calibration":
        turn = self.turn + 1
        entries = {**self.entries, key: replace(value, turn=turn)}
        if len(entries) > MAX_ENTRIES:
            del entries[min(entries, key=lambda known: (entries[known].turn, known))]
        return Calibration(entries, turn)


def _measured(one: Mapping[str, Any]) -> Measured:
    found = Measured(**{name: int(one[name]) for name in Measured.__slots__})
    if min(asdict(found).values()) < 0 or found.low > found.high:
        raise ValueError(f"no measurement: {found}")
    return found
