"""Estimates against measured loads: a table of public logs, one record per row.

The table knows a model's main dimensions and not its tensors, so what a header would give exactly is filled in here:
the bytes of the embeddings by quantisation, and the widths of feed-forward networks as they were published.
"""

import csv
import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.published import widths
from benchmarks.report import Report, Row
from ollama_fleet.sizing.cache import kv_bytes
from ollama_fleet.sizing.estimate import Estimate, estimate, graph_bytes
from ollama_fleet.sizing.ggmltypes import BY_NAME
from ollama_fleet.sizing.gguf import InvalidHeader
from ollama_fleet.sizing.load import Engine, Load, batch, slots
from ollama_fleet.sizing.metadata import Metadata
from ollama_fleet.sizing.shape import ModelShape, shape_from
from ollama_fleet.sizing.weights import Weights

DATA: Final = Path(__file__).parent.parent / "tests" / "data" / "vram-points.csv"
GIB: Final = 2**30
MIB: Final = 2**20

_ENGINES: Final = {
    "ollama-engine": Engine.OLLAMA_ENGINE,
    "ollama-llamarunner": Engine.LLAMA_RUNNER,
    "ollama-llama-server": Engine.LLAMA_SERVER,
    "llama.cpp": Engine.LLAMA_SERVER,
    # A fork that keeps sliding windows at full size, as Ollama's runner did.
    "ik_llama.cpp": Engine.LLAMA_RUNNER,
}
_TIED: Final = ("gemma", "granite", "command-r", "cohere2", "bert", "nomic-bert", "jina-bert")
_EMBEDDING_TYPES: Final = {
    **dict.fromkeys(("Q6_K", "IQ6_K"), "q6_k"),
    **dict.fromkeys(("Q8_0", "Q8_0_R8", "MXFP4"), "q8_0"),
    **dict.fromkeys(("F16", "BF16"), "f16"),
    **dict.fromkeys(("Q4_0",), "q4_0"),
    **dict.fromkeys(("Q5_K_M", "Q5_K_S"), "q5_k"),
    **dict.fromkeys(("Q3_K_M", "IQ3_XXS", "IQ3_K"), "q3_k"),
}
_HOST_SHARE: Final = 0.2
"""Of the file in host memory: more means that experts were left there."""
_RECURRENT: Final = ("qwen35", "qwen3next", "mamba", "lfm2", "nemotron_h", "falcon-h1")
"""The table lacks the dimensions of their states."""
_ROUNDED: Final = 0.06 * GIB
"""Logs of Ollama's own engine give one decimal of a GiB."""


@dataclass(frozen=True, slots=True)
class Point:
    """One usable row."""

    row: dict[str, str]
    model: ModelShape
    load: Load
    engine: Engine

    def figure(self, column: str) -> float | None:
        """A measured figure in bytes."""
        text = self.row[column]
        return float(text) * GIB if text else None


def run(*, quick: bool, data: Path | None = None) -> Report:
    """All rows; ``quick`` changes nothing, they take seconds."""
    del quick
    started = time.process_time()
    rows = read(data or DATA)
    records, unused = [], Counter[str]()
    for row in rows:
        record = _record(row)
        records.append(record)
        if "unused" in record:
            unused[record["unused"]] += 1
    seconds = time.process_time() - started
    report = Report("sizing: estimates against measured loads", {"rows": str(len(rows))})
    used = len(records) - unused.total()
    report.figures = figures(records) | {
        "rows": len(rows),
        "used": used,
        "unused": dict(unused),
        "cpu_seconds_per_row": seconds / max(1, used),
        "records": records,
    }
    found = report.figures
    report.rows = [
        Row("KV within 1 %", f"of {found['kv_rows']} rows", found["kv_within_1pct"]),
        Row("compute buffer within 5 %", f"of {found['graph_rows']} rows", found["graph_within_5pct"]),
        Row("compute buffer, median error", "%", found["graph_median_abs_pct"]),
        Row(
            "total, median error; baseline: file x 1.4",
            "%",
            found["total_median_abs_pct"],
            found["rule_of_thumb_median_abs_pct"],
        ),
        Row("total, 90th percentile of errors", f"%, {found['total_rows']} rows", found["total_p90_abs_pct"]),
        Row("reserve against measured, worst", "%", found["worst_under_pct"]),
        Row("CPU per row", "ms", 1000 * found["cpu_seconds_per_row"]),
    ]
    return report


def read(data: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with data.open(newline="") as handle:
        return list(csv.DictReader(handle))


def _record(row: dict[str, str]) -> dict[str, Any]:
    """What is known of a row, or under ``unused`` why nothing is."""
    try:
        point = usable(row)
        if not isinstance(point, str):
            return judge(point)
    except KeyError as error:
        point = f"column {error} is missing"
    except ValueError as error:
        point = f"a value that is none: {error}"
    return {"id": row.get("id", ""), "unused": point}


def usable(row: dict[str, str]) -> Point | str:
    """The row as a point, or why it is none."""
    if row["trust"] not in {"A", "B"}:
        return f"trust {row['trust']}: an estimate or of unknown origin"
    if not row["ctx_total"]:
        return "no context"
    kind = row["kv_type"] or "f16"
    if kind not in BY_NAME:
        return "mixed types of keys and values"
    if row["engine"] not in _ENGINES:
        return f"engine {row['engine']!r}"
    count = int(row["num_parallel"] or 1)
    parallel = count if row["ctx_basis"] == "per_sequence" else 1
    try:
        model = _model(row)
    except InvalidHeader as error:
        return str(error)
    if row["engine"] == "llama.cpp" and parallel < count:
        model = _one_cache(model, count)
    load = Load(
        context=int(row["ctx_total"]) // parallel,
        parallel=parallel,
        kv_type=kind,
        flash_attention=row["flash_attn"] not in {"0", ""},
        batch=int(row["n_ubatch"]) if row["n_ubatch"] else None,
    )
    engine = Engine.LLAMA_RUNNER if model.encoder and row["engine"] == "llama.cpp" else _ENGINES[row["engine"]]
    return Point(row, model, load, engine)


def _one_cache(model: ModelShape, count: int) -> ModelShape:
    """llama.cpp by itself has one cache for all sequences, with a window for each of them."""
    layers = (replace(layer, window=layer.window * count if layer.window else None) for layer in model.layers)
    return replace(model, layers=tuple(layers))


def _model(row: dict[str, str]) -> ModelShape:
    architecture = row["architecture"]
    width = int(float(row["embedding_length"] or 0))
    known_widths = widths(
        architecture,
        int(row["block_count"] or 0),
        width,
        experts=int(row["expert_count"] or 0),
        multi_head=row["head_count"] == row["head_count_kv"],
        billions=float(row["params_b"] or 0),
    )
    known = {
        "block_count": row["block_count"],
        "embedding_length": row["embedding_length"],
        "attention.head_count": row["head_count"],
        "attention.head_count_kv": row["head_count_kv"],
        "attention.key_length": row["key_length"],
        "attention.value_length": row["value_length"],
        "attention.sliding_window": row["sliding_window"],
        "vocab_size": row["vocab_size"],
    }
    values: dict[str, Any] = {f"{architecture}.{name}": int(float(text)) for name, text in known.items() if text}
    values |= {"general.architecture": architecture, f"{architecture}.feed_forward_length": known_widths.inner}
    if known_widths.expert:
        experts = {
            "expert_count": int(row["expert_count"]),
            "expert_used_count": known_widths.used,
            "expert_feed_forward_length": known_widths.expert,
            "expert_shared_feed_forward_length": known_widths.shared,
            "leading_dense_block_count": known_widths.leading,
            "nextn_predict_layers": known_widths.drafts,
        }
        values |= {f"{architecture}.{name}": value for name, value in experts.items() if value}
    # The fork keeps compressed keys only, and only together with flash attention.
    if architecture == "deepseek2" and row["engine"] == "ik_llama.cpp" and row["flash_attn"] == "1":
        latent = {"key_length_mla": 192, "value_length_mla": 128, "kv_lora_rank": 512, "q_lora_rank": 1536}
        values |= {f"deepseek2.attention.{name}": value for name, value in latent.items()}
        values |= {"deepseek2.rope.dimension_count": 64, "deepseek2.attention.head_count_kv": 1}
        values |= {"deepseek2.attention.key_length": 576, "deepseek2.attention.value_length": 512}
    file_bytes = int(float(row["file_size_gib"]) * GIB) if row["file_size_gib"] else 0
    return shape_from(Metadata(values), weights=_weights(row, file_bytes, width), file_bytes=file_bytes)


def _weights(row: dict[str, str], file_bytes: int, width: int) -> Weights:
    kind = BY_NAME[_EMBEDDING_TYPES.get(row["quant"], "q4_k")]
    embeddings = kind.row_bytes(width) * int(float(row["vocab_size"] or 0))
    if row["architecture"].startswith(_TIED):
        return Weights(layers=max(0, file_bytes - embeddings), output=embeddings, host=embeddings)
    return Weights(layers=max(0, file_bytes - 2 * embeddings), output=embeddings, host=embeddings)


def judge(point: Point) -> dict[str, Any]:
    """One row's estimates beside its figures, in bytes; errors in percent."""
    row = point.row
    gpus = max(1, int(row["n_gpus"] or 1))
    guess = estimate(point.model, point.load, point.engine, gpus=gpus)
    record: dict[str, Any] = {"id": row["id"], "engine": row["engine"], "architecture": row["architecture"]}
    kv = _sum(point.figure("kv_gib"), point.figure("kv_cpu_gib"))
    if kv and row["kv_flag"].startswith("ok"):
        record["kv"] = _error(kv_bytes(point.model, point.load, point.engine), kv, rounded=_rounded(row["kv_gib"]))
    on_host = _on_host(row)
    described = bool(row["flash_attn"]) and not point.model.architecture.startswith(_RECURRENT)
    whole = not row["partial"] and not on_host and described
    graph = point.figure("graph_gib")
    if graph and whole and row["n_gpus"] in {"0", "1"} and row["trust"] == "A":
        record["graph"] = _error(_graph(point), graph, rounded=_rounded(row["graph_gib"]))
    total = point.figure("total_gib")
    if total and whole and row["n_gpus"] == "1" and row["trust"] == "A" and row["file_size_gib"]:
        record["total"] = _error(_logged(guess), total, rounded=_rounded(row["total_gib"]))
        record["reserve"] = 100 * (guess.reserve - total) / total
        record["rule_of_thumb"] = 100 * (1.4 * point.model.file_bytes - total) / total
    return record


def _on_host(row: dict[str, str]) -> bool:
    """Whether layers or experts were left in host memory; token embeddings are there always."""
    on_gpu, left = float(row["weights_gib"] or 0), float(row["weights_cpu_gib"] or 0)
    if not on_gpu:
        return left > _HOST_SHARE * float(row["file_size_gib"] or "inf")
    return on_gpu < (1 - _HOST_SHARE) * float(row["file_size_gib"] or 0) or left > on_gpu


def _logged(guess: Estimate) -> int:
    """What a log counts: the driver's context stands in no log."""
    return guess.total - guess.part("context")


def _graph(point: Point) -> int:
    """As the versions of the table reserve it: llama.cpp then wanted the logits of a whole batch."""
    size = batch(point.model, point.load, point.engine)
    few = point.row["engine"] in {"ollama-engine", "ollama-llama-server"}
    return graph_bytes(point.model, point.load, point.engine, outputs=slots(point.model, point.load) if few else size)


def _error(ours: float, measured: float, *, rounded: bool) -> dict[str, float]:
    percent = 100 * (ours - measured) / measured
    if rounded and abs(ours - measured) <= _ROUNDED:
        percent = 0.0
    return {"ours_mib": ours / MIB, "measured_mib": measured / MIB, "error_pct": percent}


def _rounded(text: str) -> bool:
    return len(text.partition(".")[2]) <= 1


def _sum(*values: float | None) -> float | None:
    found = [value for value in values if value]
    return sum(found) if found else None


def figures(records: list[dict[str, Any]]) -> dict[str, float]:
    """The accuracy over all rows."""
    kv = [abs(r["kv"]["error_pct"]) for r in records if "kv" in r]
    graph = [abs(r["graph"]["error_pct"]) for r in records if "graph" in r]
    total = sorted(abs(r["total"]["error_pct"]) for r in records if "total" in r)
    return {
        "kv_rows": len(kv),
        "kv_within_1pct": sum(error <= 1 for error in kv),
        "graph_rows": len(graph),
        "graph_within_5pct": sum(error <= 5 for error in graph),
        "graph_median_abs_pct": statistics.median(graph) if graph else 0.0,
        "total_rows": len(total),
        "total_median_abs_pct": statistics.median(total) if total else 0.0,
        "total_p90_abs_pct": total[int(0.9 * (len(total) - 1))] if total else 0.0,
        "worst_under_pct": min((r["reserve"] for r in records if "reserve" in r), default=0.0),
        "rule_of_thumb_median_abs_pct": statistics.median(
            [abs(r["rule_of_thumb"]) for r in records if "rule_of_thumb" in r] or [0.0]
        ),
    }
