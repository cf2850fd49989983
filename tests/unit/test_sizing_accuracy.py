"""Estimates held against measured loads, and what they say of themselves."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sizing
from ollama_fleet.sizing.context import USUAL, context_on
from ollama_fleet.sizing.estimate import GIB, MIB, estimate, prediction
from ollama_fleet.sizing.gguf import InvalidHeader, read_header
from ollama_fleet.sizing.load import Engine, Load, batch, engine_of, slots
from ollama_fleet.sizing.metadata import Metadata
from ollama_fleet.sizing.shape import ModelShape, shape_from, shape_of
from ollama_fleet.sizing.weights import Weights
from tests.support.sparse_models import write

LOADS = json.loads(sizing.DATA.with_name("loads-h200.json").read_text())


def llama(**changes: int) -> ModelShape:
    """Llama 3.1 8B at Q4_K_M."""
    values = {"block_count": 32, "embedding_length": 4096, "feed_forward_length": 14336, "vocab_size": 128256}
    values |= {"attention.head_count": 32, "attention.head_count_kv": 8, "context_length": 131072}
    metadata = {f"llama.{key}": value for key, value in (values | changes).items()}
    weights = Weights(layers=4_403_000_000, output=430_000_000, host=295_000_000)
    return shape_from(
        Metadata({"general.architecture": "llama", **metadata}), weights=weights, file_bytes=4_920_000_000
    )


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return sizing.run(quick=True).figures


def test_the_table_is_used_as_far_as_it_can_be(figures: dict[str, float]) -> None:
    assert figures["rows"] == 123
    assert figures["used"] >= 64


def test_rows_that_make_no_sense_are_counted_with_the_reason(tmp_path: Path) -> None:
    header, *lines = sizing.DATA.read_text().splitlines()
    odd = tmp_path / "odd.csv"
    odd.write_text("\n".join((header.replace("n_ubatch", "micro"), *lines)))
    found = sizing.run(quick=True, data=odd).figures
    assert (found["rows"], found["used"], found["unused"]["column 'n_ubatch' is missing"]) == (123, 0, 64)
    assert [record["id"] for record in found["records"]] == [line.partition(",")[0] for line in lines]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelShape]:
    @cache
    def read(name: str) -> ModelShape:
        file = tmp_path_factory.mktemp("sparse") / name
        write(file, name)
        with file.open("rb") as handle:
            return shape_of(read_header(handle.read(MIB)), file_bytes=file.stat().st_size)

    return read


@pytest.mark.parametrize("row", LOADS["loads"], ids=lambda row: f"{row['model']}-{row['parallel']}x{row['context']}")
def test_loads_on_a_large_gpu(row: dict[str, Any], shapes: Callable[[str], ModelShape]) -> None:
    load = Load(row["context"], row["parallel"], row["kv_type"], row["flash_attention"])
    found = estimate(shapes(row["model"]), load, Engine.LLAMA_SERVER, driver=context_on(LOADS["gpu"]))
    used = row["used"] * MIB
    cache = (found.part("kv") + found.part("state")) / MIB
    assert cache == pytest.approx(row["kv"] + row["state"], rel=0.001, abs=1)
    # Of jamba llama.cpp leaves 32 MiB on the host.
    assert found.part("weights") / MIB == pytest.approx(row["weights"], rel=0.02 if row["model"] == "jamba" else 0.001)
    # Without flash attention a request takes more than the load.
    assert found.total == pytest.approx(used, rel=0.02 if row["flash_attention"] else 0.03)
    assert used <= found.reserve < 1.2 * used


def test_the_cache_is_exact(figures: dict[str, float]) -> None:
    # One row does not name its slots, one is of a fork that caches a layer of a draft.
    assert figures["kv_rows"] >= 53
    assert figures["kv_within_1pct"] >= figures["kv_rows"] - 2


def test_the_compute_buffer_is_mostly_close(figures: dict[str, float]) -> None:
    assert figures["graph_rows"] >= 33
    assert figures["graph_median_abs_pct"] <= 2


def test_totals_are_within_the_goal(figures: dict[str, float]) -> None:
    assert figures["total_rows"] >= 9
    assert figures["total_median_abs_pct"] <= 3
    assert figures["total_p90_abs_pct"] <= 8


def test_the_reserve_is_never_short(figures: dict[str, float]) -> None:
    assert figures["worst_under_pct"] >= -2


def test_a_row_that_cannot_be_used_says_why() -> None:
    row = next(row for row in sizing.read(sizing.DATA) if row["trust"] == "C")
    assert sizing.usable(row) == "trust C: an estimate or of unknown origin"


def test_a_slot_costs_its_context_and_a_quantised_cache_about_half() -> None:
    one = estimate(llama(), Load(context=8192), Engine.LLAMA_SERVER)
    four = estimate(llama(), Load(context=8192, parallel=4), Engine.LLAMA_SERVER)
    small = estimate(llama(), Load(context=8192, kv_type="q8_0"), Engine.LLAMA_SERVER)
    assert one.part("kv") == GIB
    assert four.part("kv") == 4 * GIB
    assert small.part("kv") == GIB * 34 // 64


def test_context_beyond_training_is_not_paid_for() -> None:
    assert estimate(llama(context_length=4096), Load(context=99999), Engine.LLAMA_SERVER).part("kv") == GIB // 2


def test_each_gpu_has_a_context_and_a_compute_buffer_and_the_reserve_covers_all() -> None:
    one = estimate(llama(), Load(context=8192), Engine.LLAMA_SERVER)
    two = estimate(llama(), Load(context=8192), Engine.LLAMA_SERVER, gpus=2)
    assert two.part("context") == 2 * USUAL.expected
    assert len(two.per_gpu) == 2
    assert two.total > one.total > max(two.per_gpu)
    assert all(low < high for low, high in zip(two.per_gpu, two.reserve_per_gpu, strict=True))
    assert sum(part.bytes for part in two.parts) == two.total


def test_the_prediction_is_ollama_s_and_ignores_the_type_of_the_cache() -> None:
    plain, small = Load(context=8192, parallel=2), Load(context=8192, parallel=2, kv_type="q4_0")
    assert prediction(llama(), plain) == 4_920_000_000 + 2 * 32 * 8 * 128 * 16384 * 2
    assert prediction(llama(), plain) == prediction(llama(), small)


def test_an_unknown_architecture_is_of_low_confidence_and_reserves_more() -> None:
    values = {"block_count": 4, "embedding_length": 512, "attention.head_count": 8}
    made = Metadata({"general.architecture": "new", **{f"new.{key}": value for key, value in values.items()}})
    model = shape_from(made, weights=Weights(10**9, 10**8, 10**8), file_bytes=12 * 10**8)
    found = estimate(model, Load(context=4096), Engine.LLAMA_SERVER)
    assert found.confidence == "low"
    assert estimate(llama(), Load(context=4096), Engine.LLAMA_SERVER).confidence == "modelled"


def test_engines_by_generation() -> None:
    assert engine_of("llama", llama_server=True) is Engine.LLAMA_SERVER
    assert engine_of("llama", llama_server=False) is Engine.LLAMA_RUNNER
    assert engine_of("gemma3", llama_server=False) is Engine.OLLAMA_ENGINE


@pytest.mark.parametrize("missing", ["block_count", "embedding_length"])
def test_a_header_without_its_dimensions_is_refused(missing: str) -> None:
    with pytest.raises(InvalidHeader, match=missing):
        llama(**{missing: 0})


def embedder(architecture: str = "qwen3", **changes: int) -> ModelShape:
    """Qwen3 Embedding 0.6B at Q8_0: a decoder, but for its pooling."""
    values = {"block_count": 28, "embedding_length": 1024, "feed_forward_length": 3072, "vocab_size": 151669}
    values |= {"attention.head_count": 16, "attention.head_count_kv": 8, "attention.key_length": 128}
    values |= {"attention.value_length": 128, "context_length": 32768, "pooling_type": 3}
    metadata = {f"{architecture}.{key}": value for key, value in (values | changes).items()}
    weights = Weights(layers=474_000_000, output=165_000_000, host=165_000_000)
    return shape_from(
        Metadata({"general.architecture": architecture, **metadata}), weights=weights, file_bytes=639_000_000
    )


def test_a_decoder_that_embeds_has_one_slot_and_the_logits_of_a_whole_input() -> None:
    """``pooling_type`` alone decides: Ollama then passes one slot, a batch of 2048 and ``--embedding``."""
    load = Load(context=8192, parallel=4)
    chat = replace(embedder(), pooled=False)
    assert (slots(embedder(), load), slots(chat, load)) == (1, 4)
    assert batch(embedder(), load, Engine.LLAMA_SERVER) == 2048
    assert batch(embedder(), replace(load, context=1024), Engine.LLAMA_SERVER) == 1024
    found = estimate(embedder(), load, Engine.LLAMA_SERVER)
    assert found.part("kv") == estimate(chat, replace(load, parallel=1), Engine.LLAMA_SERVER).part("kv")
    assert found.part("compute") > 4 * 2048 * 151669
    assert found.reserve > found.total


@pytest.mark.parametrize("flash_attention", [True, False])
def test_an_input_is_cut_at_the_batch_whatever_the_attention(*, flash_attention: bool) -> None:
    load = Load(context=8192, flash_attention=flash_attention)
    for model in (embedder(), embedder("bert")):
        assert batch(model, load, Engine.LLAMA_SERVER) == 2048
        assert batch(model, load, Engine.LLAMA_RUNNER) == 8192
        assert batch(model, load, Engine.OLLAMA_ENGINE) == 512
