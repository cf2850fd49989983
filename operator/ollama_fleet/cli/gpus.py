"""GPUs as people name them on a command line."""

import re
from typing import Final

from ollama_fleet.planning.inventory import CARD_SHARE, Inventory, usable
from ollama_fleet.planning.quantities import mebibytes

PRODUCTS: Final = {
    "T4": 15360,
    "L4": 23034,
    "A10": 23028,
    "A10G": 23028,
    "RTX3090": 24576,
    "RTX4090": 24564,
    "L40S": 46068,
    "A100-40GB": 40960,
    "A100-80GB": 81920,
    "H100": 81559,
    "H200": 143771,
}
"""MiB per card, as the driver shows them."""
_COUNTED: Final = re.compile(r"(?P<what>.+?)(?:x(?P<count>[1-9][0-9]?))?")


class InvalidGPU(ValueError):
    """The GPU cannot be understood; the message says what can."""


def by_memory(text: str, *, servers: int) -> Inventory:
    """``24Gi`` or ``24Gix2``: a card that is sold with so much memory, and how many of it a server gets."""
    what, count = _split(text)
    try:
        least = int(mebibytes(what) * CARD_SHARE)
    except ValueError as error:
        raise InvalidGPU(f"--gpu {text}: write the memory of a card, such as 24Gi or 24Gix2") from error
    return Inventory(count, usable(least), servers, f"a card sold as {what} has at least {least} MiB")


def by_product(text: str, *, servers: int) -> Inventory:
    """``L4`` or ``L4x2``."""
    what, count = _split(text)
    memory = {name.lower(): size for name, size in PRODUCTS.items()}.get(what.lower())
    if memory is None:
        raise InvalidGPU(f"--gpu-product {text}: known are {', '.join(PRODUCTS)}; give the memory with --gpu instead")
    return Inventory(count, usable(memory), servers, f"{what} has {memory} MiB")


def _split(text: str) -> tuple[str, int]:
    found = _COUNTED.fullmatch(text.strip())
    if found is None:
        raise InvalidGPU(f"{text!r} names no GPU")
    return found["what"], int(found["count"] or 1)
