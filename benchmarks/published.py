"""Widths of published models that the table of measured loads does not have: feed-forward networks and experts.

From the models' published configurations (``intermediate_size``, ``moe_intermediate_size``, ``num_experts_per_tok``).
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Widths:
    """Of the networks behind attention; 0 where there is none of a kind."""

    inner: int
    """Of a dense layer."""
    expert: int = 0
    used: int = 0
    """Experts per token."""
    shared: int = 0
    """Of the experts that every token uses."""
    leading: int = 0
    """Dense layers before the first with experts."""
    drafts: int = 0
    """Layers at the end that only serve a draft."""


_DENSE: Final = {
    ("llama", 16, 2048): 8192,
    ("llama", 22, 2048): 5632,
    ("llama", 26, 3200): 8640,
    ("llama", 28, 3072): 8192,
    ("llama", 32, 4096): 14336,
    ("llama", 36, 4096): 14336,
    ("llama", 40, 5120): 14336,
    ("llama", 48, 4096): 14336,
    ("llama", 48, 8192): 22016,
    ("llama", 60, 7168): 20480,
    ("llama", 62, 7168): 19200,
    ("llama", 80, 8192): 28672,
    ("llama", 88, 12288): 28672,
    ("mistral3", 40, 5120): 32768,
    ("qwen2", 24, 896): 4864,
    ("qwen2", 28, 1536): 8960,
    ("qwen2", 28, 3584): 18944,
    ("qwen2", 36, 2048): 11008,
    ("qwen2", 48, 5120): 13824,
    ("qwen2", 64, 5120): 27648,
    ("qwen2", 80, 8192): 29568,
    ("qwen3", 28, 1024): 3072,
    ("qwen3", 28, 2048): 6144,
    ("qwen3", 36, 2560): 9728,
    ("qwen3", 36, 4096): 12288,
    ("qwen3", 40, 5120): 17408,
    ("qwen3", 64, 5120): 25600,
    ("gemma", 18, 2048): 16384,
    ("gemma", 28, 3072): 24576,
    ("gemma2", 26, 2304): 9216,
    ("gemma2", 42, 3584): 14336,
    ("gemma2", 46, 4608): 36864,
    ("gemma3", 18, 640): 2048,
    ("gemma3", 26, 1152): 6912,
    ("gemma3", 34, 2560): 10240,
    ("gemma3", 48, 3840): 15360,
    ("gemma3", 62, 5376): 21504,
    ("phi2", 32, 2560): 10240,
    ("phi3", 32, 3072): 8192,
    ("phi3", 40, 5120): 17920,
    ("glm4", 40, 4096): 13696,
    ("glm4", 61, 6144): 23040,
    ("chatglm", 40, 4096): 13696,
    ("command-r", 32, 4096): 14336,
    ("command-r", 40, 8192): 22528,
    ("cohere2", 32, 4096): 14336,
    ("cohere2", 64, 12288): 36864,
    ("granite", 40, 2048): 8192,
    ("granite", 40, 4096): 12800,
    ("stablelm", 24, 2048): 5632,
    ("stablelm", 32, 2560): 6912,
    ("olmo2", 32, 4096): 11008,
    ("olmo2", 40, 5120): 13824,
    ("internlm2", 32, 4096): 14336,
    ("internlm2", 48, 6144): 16384,
}
"""By architecture, layers and width of the embeddings."""
_MULTI_HEAD: Final = {("llama", 32, 4096): 11008, ("llama", 40, 5120): 13824}
"""Llama 2 and its kin, whose heads have keys of their own."""
_LARGE: Final = {("llama", 40, 5120): 32768}
"""Mistral Small: more than 20 billion parameters in the layers of Mistral Nemo."""
_LARGE_PARAMETERS: Final = 20.0
_EXPERTS: Final = {
    ("llama", 32, 4096): Widths(14336, 14336, 2),
    ("llama", 56, 6144): Widths(16384, 16384, 2),
    ("qwen2moe", 28, 3584): Widths(18944, 2560, 8, shared=20480),
    ("qwen3moe", 48, 2048): Widths(6144, 768, 8),
    ("qwen3moe", 62, 6144): Widths(8192, 2560, 8),
    ("qwen3moe", 94, 4096): Widths(12288, 1536, 8),
    ("qwen3vlmoe", 48, 2048): Widths(6144, 768, 8),
    ("qwen3vlmoe", 94, 4096): Widths(12288, 1536, 8),
    ("qwen3next", 48, 2048): Widths(5120, 512, 10, shared=512),
    ("gpt-oss", 24, 2880): Widths(2880, 2880, 4),
    ("gpt-oss", 36, 2880): Widths(2880, 2880, 4),
    ("deepseek2", 27, 2048): Widths(10944, 1408, 6, shared=2816, leading=1),
    ("deepseek2", 60, 5120): Widths(12288, 1536, 6, shared=3072, leading=1),
    ("deepseek2", 61, 7168): Widths(18432, 2048, 8, shared=2048, leading=3),
    ("glm4moe", 47, 4096): Widths(10944, 1408, 8, shared=1408, leading=1, drafts=1),
    ("glm4moe", 93, 5120): Widths(12288, 1536, 8, shared=1536, leading=3, drafts=1),
    ("llama4", 48, 5120): Widths(16384, 8192, 1, shared=8192),
    ("minimax-m2", 62, 3072): Widths(1536, 1536, 8),
}
_FOURFOLD: Final = frozenset(
    {"bert", "nomic-bert", "jina-bert-v2", "falcon", "mpt", "gptneox", "gpt2", "starcoder2", "bloom"}
)
_USUAL: Final = 3.5
"""Times the width of the embeddings, as in most dense models."""


def widths(architecture: str, layers: int, width: int, *, experts: int, multi_head: bool, billions: float) -> Widths:
    """Of a model by what the table has of it; the usual ones for a model that is not known here."""
    key = ("gpt-oss" if architecture == "gptoss" else architecture, layers, width)
    if experts and key in _EXPERTS:
        return _EXPERTS[key]
    if architecture in _FOURFOLD:
        return Widths(4 * width)
    if multi_head and key in _MULTI_HEAD:
        return Widths(_MULTI_HEAD[key])
    if billions > _LARGE_PARAMETERS and key in _LARGE:
        return Widths(_LARGE[key])
    return Widths(_DENSE.get(key, int(_USUAL * width)))
