"""Options of Ollama that a ModelSet may set, as its schema types them."""

from typing import Annotated

from pydantic import ConfigDict, Field, WithJsonSchema

from ollama_fleet.api.base import Open
from ollama_fleet.api.schema import list_atomic

Value = str | int | float | bool | list[str]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class ModelParameters(Open):
    """``PARAMETER`` of a Modelfile, under Ollama's own names.

    Unknown names are kept, not pruned: the operator then refuses them by name in the status, where a pruned typo
    would vanish for every client that does not ask for strict validation.
    """

    model_config = ConfigDict(alias_generator=None)
    __pydantic_extra__: dict[str, Value] = Field(init=False)

    draft_num_predict: int | None = None
    """Tokens drafted ahead by speculative decoding (Ollama 0.30 and later)."""
    frequency_penalty: Number | None = None
    """Penalty that grows with how often a token occurred."""
    main_gpu: int | None = None
    """GPU for small tensors."""
    min_p: Number | None = None
    """Least probability of a token, relative to the most probable one."""
    num_batch: int | None = None
    """Prompt tokens per step."""
    num_ctx: int | None = None
    """Not to be set here: ``contextLength`` of the entry sets it."""
    num_gpu: int | None = None
    """Layers in GPU memory; Ollama's choice when absent."""
    num_keep: int | None = None
    """Tokens of the beginning that are kept when the context overflows."""
    num_predict: int | None = None
    """Tokens to generate at most; -1 for no limit."""
    num_thread: int | None = None
    """CPU threads; Ollama's choice when absent."""
    presence_penalty: Number | None = None
    """Penalty of tokens that occurred."""
    repeat_last_n: int | None = None
    """Tokens that ``repeat_penalty`` looks back; 0 for none, -1 for the whole context."""
    repeat_penalty: Number | None = None
    """Penalty of repetition; 1 for none."""
    seed: int | None = None
    """Seed of the random numbers."""
    stop: list[StopText] | None = Field(default=None, max_length=16, json_schema_extra=list_atomic())
    """Texts that end an answer."""
    temperature: Number | None = None
    """0 for the most probable token always; higher for more variety."""
    top_k: int | None = None
    """Most probable tokens to choose from."""
    top_p: Number | None = None
    """Share of probability to choose from."""
    typical_p: Number | None = None
    """Share of typical tokens to choose from."""
    use_mmap: bool | None = None
    """Whether weights are mapped from the file instead of read."""
