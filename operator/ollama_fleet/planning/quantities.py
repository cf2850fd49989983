"""Kubernetes quantities and Go durations, as the specs write them."""

import re
from decimal import Decimal
from typing import Final

_SUFFIXES: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity stands for. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)", text)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is no quantity such as 500m, 4 or 24Gi")
    return Decimal(match[1]) * _SUFFIXES[match[2]]


def parse_bytes(text: str) -> int:
    """A quantity of memory in bytes, rounded down."""
    return int(parse_quantity(text))


def quantity(size: int) -> str:
    """Bytes as the API server would write them: in the largest unit of which there is a whole number."""
    for suffix in ("Ti", "Gi", "Mi", "Ki", "T", "G", "M", "k"):
        if size and size % _SUFFIXES[suffix] == 0:
            return f"{size // int(_SUFFIXES[suffix])}{suffix}"
    return str(size)


def mebibytes(text: str) -> int:
    """A quantity of memory in MiB, rounded down."""
    return parse_bytes(text) // 2**20


def seconds(text: str) -> float:
    """A duration such as ``1h30m``. Raises ValueError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration such as 90s or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
