"""GPUs as people name them on a command line."""

import re
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from ollama_fleet.api.ollamadeployment import GPUSpec
from ollama_fleet.planning.inventory import CARD_SHARE, Inventory, least_memory, usable
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


@dataclass(frozen=True, slots=True)
class Card:
    """A kind of GPU."""

    memory: int
    """MiB that its driver shows."""
    source: str
    """Where the figure comes from, for people."""
    option: str
    """As it was written."""
    count: int | None = None
    """GPUs per server, where that was said."""

    def inventory(self, gpu: GPUSpec, *, servers: int) -> Inventory:
        """What a deployment may count on. Raises InvalidGPU where it asks for others."""
        if self.count is not None and self.count != gpu.count:
            raise InvalidGPU(
                f"{self.option} names {self.count} GPUs per server, hardware.gpu.count of the deployment {gpu.count}: "
                f"leave out x{self.count}, or change the manifest"
            )
        if self.memory < least_memory(gpu):
            raise InvalidGPU(
                f"{self.option} has {self.memory} MiB, and the deployment takes no GPU below hardware.gpu.minMemory "
                f"{gpu.min_memory}, {least_memory(gpu)} MiB: name another GPU, or change the manifest"
            )
        return Inventory(gpu.count, usable(self.memory), servers, self.source)


def by_memory(text: str) -> Card:
    """``24Gi`` or ``24Gix2``: a card that is sold with so much memory, and how many of it a server gets."""
    what, count = _split(text)
    try:
        least = int(mebibytes(what) * CARD_SHARE)
    except ValueError as error:
        raise InvalidGPU(f"--gpu {text}: write the memory of a card, such as 24Gi or 24Gix2") from error
    return Card(least, f"a card sold as {what} has at least {least} MiB", f"--gpu {text}", count)


def by_product(text: str) -> Card:
    """``L4`` or ``L4x2``."""
    what, count = _split(text)
    memory = {name.lower(): size for name, size in PRODUCTS.items()}.get(what.lower())
    if memory is None:
        raise InvalidGPU(f"--gpu-product {text}: known are {', '.join(PRODUCTS)}; give the memory with --gpu instead")
    return Card(memory, f"{what} has {memory} MiB", f"--gpu-product {text}", count)


def _split(text: str) -> tuple[str, int | None]:
    found = _COUNTED.fullmatch(text.strip())
    if found is None:
        raise InvalidGPU(f"{text!r} names no GPU")
    if not found["count"]:
        return found["what"], None
    try:
        return found["what"], GPUSpec(count=int(found["count"])).count
    except ValidationError as error:
        raise InvalidGPU(f"{text}: {found['count']} GPUs per server: {error.errors()[0]['msg']}") from error
