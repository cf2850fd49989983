"""What the driver keeps for each process on a GPU, beside what the process asks for.

It grows with the GPU: local memory and stacks for all threads that can run at once. An engine that has computed once
has its kernels there too, and the library of matrix products with its workspace where the model needs it.
"""

import re
from dataclasses import dataclass
from typing import Final

from ollama_fleet.sizing.shape import ModelShape

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class DriverContext:
    """Bytes per process and GPU."""

    expected: int
    library: int
    """On top, where experts, encoders or state spaces have the library of matrix products loaded."""
    most: int

    def of(self, model: ModelShape) -> int:
        """What is expected for a process that runs the model."""
        states = model.mixer is not None and model.mixer.kind != "convolution"
        return self.expected + (self.library if model.experts or model.encoder or states else 0)


USUAL: Final = DriverContext(expected=400 * _MIB, library=0, most=512 * _MIB)
"""300 to 400 MiB were seen on CUDA (nvidia-smi against logged buffers)."""
LARGE: Final = DriverContext(expected=608 * _MIB, library=70 * _MIB, most=736 * _MIB)
"""Measured on an H200 (``benchmarks/card.py``): 518 MiB bare, 602 to 621 with dense models, 660 to 708 with others.

Bare it is the same on an H100 (``make test-gpu``).
"""

_LARGE: Final = re.compile(r"\b(?:G?H(?:20|100|200|800)|G?B(?:100|200|300))\b", re.ASCII)


def context_on(product: str) -> DriverContext:
    """By the GPU's name, as the driver or the node's label gives it; newer ones of that size are taken for the same."""
    return LARGE if _LARGE.search(product) else USUAL
