"""A header is written by whoever made the file: whatever it says, it is refused or planned with, and soon.

The operator plans in its event loop, so that a header which divides by nothing, or asks for a graph of a million nodes,
would stop it for everybody.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_fleet.api.modelheader import LayerKind, ModelHeader, TensorBytes
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.problems import Problem
from ollama_fleet.sizing.gguf import Array, Header, InvalidHeader, Value
from ollama_fleet.sizing.graph import Graph
from ollama_fleet.sizing.portable import from_document, to_document
from ollama_fleet.sizing.shape import ModelShape, shape_of
from tests.support.plans import sized, wish

MOST_NODES = 20_000
ARCHITECTURES = (
    *("llama", "bert", "gemma2", "gemma3", "gemma3n", "llama4", "qwen3moe", "qwen3next", "qwen35", "mamba", "mamba2"),
    *(
        "jamba",
        "lfm2",
        "rwkv7",
        "falcon-h1",
        "nemotron_h",
        "granitehybrid",
        "deepseek2",
        "gpt-oss",
        "phi3",
        "unheard-of",
    ),
)
PLAIN: dict[str, Value] = {
    "block_count": 4,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "context_length": 4096,
    "vocab_size": 1000,
}
HYBRID: dict[str, Value] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 64,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "attention.kv_lora_rank": 32,
    "rope.dimension_count": 8,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
    "shortconv.l_cache": 3,
    "attention.sliding_window": 128,
    "attention.sliding_window_pattern": Array(4, (True, True, True, False)),
}
OTHERS = (
    *("attention.key_length", "attention.value_length", "attention.key_length_swa", "attention.shared_kv_layers"),
    *("attention.chunk_size", "attention.recurrent_layers", "attention.q_lora_rank", "full_attention_interval"),
    *("nextn_predict_layers", "leading_dense_block_count", "wkv.head_size", "token_shift_count", "expert_shared_count"),
    *("expert_shared_feed_forward_length", "attention.layer_norm_epsilon"),
)
NUMBERS = st.one_of(st.integers(0, 70), st.sampled_from([512, 5000, 2**20, 2**30, 2**31, 2**40, 2**40 + 1, 2**63, -1]))
VALUES: st.SearchStrategy[Value] = st.one_of(
    NUMBERS,
    st.lists(st.integers(0, 9), max_size=40).map(lambda values: Array(len(values), tuple(values))),
    st.sampled_from([Array(5000, ()), 0.5, "text", True, ""]),
)


def header(architecture: str, **values: Value) -> Header:
    named = {f"{architecture}.{key}": value for key, value in values.items()}
    return Header(3, {"general.architecture": architecture, **named}, (), 100)


def read(found: Header) -> ModelShape:
    """As the operator reads it: through the status of a ModelSet."""
    return from_document(to_document(shape_of(found, file_bytes=10**9)))


def problems(shape: ModelShape) -> tuple[Problem, ...]:
    return plan_deployment(wish({"name": "chat"}, shapes={"chat": shape})).problems


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No graph that is laid out is larger than those of the largest models."""
    peak = Graph.peak

    def counted(graph: Graph) -> int:
        assert len(graph._nodes) <= MOST_NODES
        return peak(graph)

    with monkeypatch.context() as patched:
        patched.setattr(Graph, "peak", counted)
        yield


@settings(max_examples=300)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    kept=st.sets(st.sampled_from(sorted(HYBRID))),
    changes=st.dictionaries(st.sampled_from([*PLAIN, *HYBRID, *OTHERS]), VALUES, max_size=4),
)
def test_no_header_does_more_than_to_be_refused(architecture: str, kept: set[str], changes: dict[str, Value]) -> None:
    values = {**PLAIN, **{key: HYBRID[key] for key in sorted(kept)}, **changes}
    try:
        shape = read(header(architecture, **values))
    except InvalidHeader:
        return
    problems(shape)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"expert_count": 8}, "0 experts used of 8"),
        ({"expert_count": 8, "expert_used_count": 40_000}, "40000 experts used of 8"),
        ({"expert_count": 2**31, "expert_used_count": 40_000}, "40000 experts used of 2147483648"),
        ({"attention.sliding_window": 512, "attention.sliding_window_pattern": Array(0, ())}, "sliding_window_pattern"),
        ({"attention.sliding_window": 512, "attention.sliding_window_pattern": Array(5000, ())}, "5000 elements"),
        ({"attention.head_count_kv": Array(64, tuple(range(1, 65))), "block_count": 64}, "64 kinds of layers"),
    ],
)
def test_what_no_model_has_is_named(values: dict[str, Value], complaint: str) -> None:
    with pytest.raises(InvalidHeader, match=complaint):
        read(header("llama", **{**PLAIN, **values}))


def test_a_state_larger_than_any_memory_is_no_header() -> None:
    huge = {"ssm.inner_size": 2**30, "ssm.state_size": 2**30, "ssm.conv_kernel": 4}
    with pytest.raises(InvalidHeader, match="state"):
        read(header("mamba", **{**PLAIN, **huge}))


@pytest.mark.parametrize(
    "edits",
    [
        {"experts": 8, "experts_used": 0},
        {"experts": 8, "experts_used": 40_000},
        {"experts": 2**31, "experts_used": 40_000},
    ],
)
def test_what_others_write_into_a_status_is_not_believed_either(edits: dict[str, Any]) -> None:
    """The model is served without being sized, as one without a header."""
    plain = ModelHeader(
        architecture="llama",
        layers=[LayerKind(count=4, kv_heads=2, key_length=16, value_length=16)],
        embedding_length=64,
        heads=4,
        weights=TensorBytes(layers=1000, output=1000),
    )
    asked = wish({"name": "chat"}, shapes={"chat": from_document(plain)})
    view = asked.model_sets["models"]
    assert view is not None
    forged = plain.model_copy(update=edits)
    view.status.models[0] = view.status.models[0].model_copy(update={"header": forged})
    plan = plan_deployment(asked)
    assert plan.problems == ()
    assert plan.groups[0].planned == {}
    assert sized({"name": "chat"}, shapes={"chat": from_document(plain)}) is not None
