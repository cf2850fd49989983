"""Where the bytes of a model's tensors go. Which of them stay on the CPU is llama.cpp's choice.

Source: ``src/llama-model.cpp``, build 10488.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ollama_fleet.sizing.gguf import Tensor
from ollama_fleet.sizing.metadata import MAX_LAYERS

_DIGITS: Final = 6
"""Of the number of a layer that makes sense."""
_HOST_TENSORS: Final = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
_PROJECTOR: Final = ("v.", "mm.", "a.")


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of tensors, by where they go."""

    layers: int
    """Repeating layers."""
    output: int
    """Output norm and matrix; a tied model's copy of the token embeddings."""
    host: int
    """Token embeddings, which stay in host memory."""
    projector: int = 0
    """Vision and audio towers inside the file."""
    draft: int = 0
    """Layers that predict further tokens: llama.cpp passes over them unless a draft is asked for."""

    @property
    def gpu(self) -> int:
        """Bytes on the GPU when every layer is offloaded."""
        return self.layers + self.output + self.projector


def weights_of(tensors: Iterable[Tensor], *, drafts: int = MAX_LAYERS, encoder: bool = False) -> Weights:
    """Where llama.cpp puts each tensor when every layer goes to the GPU; layers from ``drafts`` on serve a draft.

    An ``encoder`` has no output matrix; any other model without one uses its token embeddings, as a copy on the GPU.
    """
    layers = output = host = projector = embeddings = draft = 0
    tied = True
    for tensor in tensors:
        if tensor.name.startswith("blk."):
            if _index(tensor.name) < drafts:
                layers += tensor.bytes
            else:
                draft += tensor.bytes
        elif tensor.name.startswith(_PROJECTOR):
            projector += tensor.bytes
        elif tensor.name.startswith(_HOST_TENSORS):
            host += tensor.bytes
            embeddings += tensor.bytes if tensor.name == "token_embd.weight" else 0
        else:
            output += tensor.bytes
            tied = tied and tensor.name != "output.weight"
    return Weights(layers, output + (embeddings if tied and not encoder else 0), host, projector, draft)


def _index(name: str) -> int:
    """Of a layer, from the name of its tensor."""
    number = name.split(".", 2)[1]
    return int(number) if number.isdecimal() and len(number) <= _DIGITS else 0
