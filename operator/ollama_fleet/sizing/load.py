"""How a model is loaded: what Ollama is told, and what its engines make of it."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ollama_fleet.sizing.shape import ModelShape


class Engine(Enum):
    """Who runs the model; they differ in what they reserve."""

    LLAMA_SERVER = "llama-server"
    """Ollama from 0.30: llama.cpp's server as a process per model."""
    LLAMA_RUNNER = "llama-runner"
    """Ollama up to 0.24: llama.cpp inside Ollama's own runner."""
    OLLAMA_ENGINE = "ollama-engine"
    """Ollama up to 0.24: its own engine, for the architectures it knows."""


_OWN_ENGINE: Final = frozenset(
    {
        *("bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gemma4", "glm4moelite", "glmocr", "gptoss"),
        *("gpt-oss", "laguna", "lfm2", "lfm2moe", "llama4", "mistral3", "mllama", "nemotron_h", "nemotron_h_moe"),
        *("nemotron_h_omni", "nomic-bert", "olmo3", "qwen25vl", "qwen3", "qwen35", "qwen35moe", "qwen3moe"),
        *("qwen3next", "qwen3vl", "qwen3vlmoe"),
    }
)
"""``OllamaEngineRequired`` in ``fs/ggml/ggml.go`` of 0.24; others run in its copy of llama.cpp."""
_SINGLE_SLOT: Final = frozenset(
    {"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"}
)
"""Families that Ollama runs with one slot whatever it is told (``server/sched.go``)."""

_EMBEDDING_BATCH: Final = 2048
"""Of models that answer with vectors, with flash attention or without (``llm/llama_server.go``)."""


def engine_of(architecture: str, *, llama_server: bool) -> Engine:
    """The engine of an architecture; ``llama_server`` for Ollama from 0.30."""
    if llama_server:
        return Engine.LLAMA_SERVER
    return Engine.OLLAMA_ENGINE if architecture in _OWN_ENGINE else Engine.LLAMA_RUNNER


@dataclass(frozen=True, slots=True)
class Load:
    """Options of one load."""

    context: int
    """Tokens per slot."""
    parallel: int = 1
    """Slots."""
    kv_type: str = "f16"
    """Of keys and values alike."""
    flash_attention: bool = True
    batch: int | None = None
    """Tokens of a micro-batch; None: as Ollama chooses."""


def slots(model: ModelShape, load: Load) -> int:
    """Slots that the model really gets."""
    single = model.embeds or model.architecture in _SINGLE_SLOT or model.architecture.startswith("nemotron_h")
    return 1 if single else max(1, load.parallel)


def context(model: ModelShape, load: Load) -> int:
    """Tokens per slot that the model really gets: never more than it was trained for."""
    return min(load.context, model.context_length) if model.context_length else load.context


def batch(model: ModelShape, load: Load, engine: Engine) -> int:
    """Tokens of a micro-batch. From 0.30 Ollama raises it with the whole context (``server/sched.go``)."""
    total = context(model, load) * slots(model, load)
    if load.batch is not None:
        return min(load.batch, total)
    if model.embeds and engine is not Engine.OLLAMA_ENGINE:
        # An input is computed at once; from 0.30 it is cut there (``DefaultEmbeddingNumBatchForContext``).
        return min(_EMBEDDING_BATCH, total) if engine is Engine.LLAMA_SERVER else total
    if engine is not Engine.LLAMA_SERVER or not load.flash_attention:
        return min(512, max(1, total))
    return min(512 if total <= 4096 else 1024 if total <= 32768 else 2048, total)
