"""Estimates against a GPU of this machine, by what the driver counts."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.card_loads import CASES, VERSION, Card, Case, Measured, measure
from benchmarks.report import Report, Row
from ollama_fleet.agent.nvml import NvmlFailed
from ollama_fleet.sizing.context import context_on
from ollama_fleet.sizing.estimate import MIB, estimate
from ollama_fleet.sizing.load import Engine, batch
from ollama_fleet.sizing.shape import ModelShape

_QUICK: Final = 5
"""Cases that take less than 45 s."""


@dataclass(slots=True)
class Record:
    """A case, what was measured, and what was estimated."""

    case: Case
    measured: Measured
    parts: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    reserve: float = 0.0


def run(*, quick: bool, ollama: Path | None = None) -> Report:
    """All cases with an ``ollama`` that uses the GPU. Raises SystemExit where there is no GPU."""
    try:
        card = Card()
    except NvmlFailed as error:
        raise SystemExit(f"card: needs a machine with an NVIDIA GPU: {error}") from error
    report = Report(
        "card: estimates against a GPU", {"ollama": VERSION, "driver": card.driver, "GPU": card.product.strip()}
    )
    records = []
    for case, shape, measured, seconds in measure(card, CASES[:_QUICK] if quick else CASES, ollama):
        records.append(_record(case, shape, measured, card.product))
        print(f"{seconds:6.1f} s  {_line(records[-1])}", flush=True)
    report.figures = figures(records) | {"gpu": card.product, "driver": card.driver, "ollama": VERSION}
    found = report.figures
    report.rows = [
        Row("loads", f"of {len(records)}", found["loaded"]),
        Row("weights, worst error", "%", found["weights_worst_pct"]),
        Row("KV and state, worst error", "%", found["cache_worst_pct"]),
        Row("compute buffer, median error", "%", found["compute_median_abs_pct"]),
        Row("driver's context, median", "MiB", found["context_median_mib"]),
        Row("driver's context, largest", "MiB", found["context_max_mib"]),
        Row(
            "total, median error; baseline: file x 1.4",
            "%",
            found["total_median_abs_pct"],
            found["rule_of_thumb_median_abs_pct"],
        ),
        Row("total, worst error", "%", found["total_worst_pct"]),
        Row("reserve against measured, worst", "%", found["worst_under_pct"]),
    ]
    return report


def _record(case: Case, shape: ModelShape, found: Measured, product: str) -> Record:
    guess = estimate(shape, case.load, Engine.LLAMA_SERVER, driver=context_on(product))
    parts = {part.name: part.bytes / MIB for part in guess.parts}
    parts["file"] = shape.file_bytes / MIB
    parts["batch"] = batch(shape, case.load, Engine.LLAMA_SERVER)
    return Record(case, found, parts, guess.total / MIB, guess.reserve / MIB)


def _line(record: Record) -> str:
    case, found, parts = record.case, record.measured, record.parts
    options = f"{case.parallel} x {case.context} {case.kv_type}{'' if case.flash_attention else ' no fa'}"
    if found.error:
        return f"{case.model:<15} {options:<18} {found.error}"
    pairs = (
        ("weights", found.weights),
        ("kv", found.kv),
        ("state", found.state),
        ("compute", found.compute),
        ("context", found.context),
    )
    told = "  ".join(f"{name} {parts.get(name, 0.0):.0f}/{value:.0f}" for name, value in pairs)
    return f"{case.model:<15} {options:<18} {told}  total {record.total:.0f}/{found.used:.0f}  <= {record.reserve:.0f}"


def figures(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracy over all loads that went well; errors in percent of what was measured."""
    good = [record for record in records if not record.measured.error]
    total = [100 * (r.total - r.measured.used) / r.measured.used for r in good]
    compute = [_percent(r.parts["compute"], r.measured.compute) for r in good]
    weights = [_percent(r.parts["weights"], r.measured.weights) for r in good]
    cache = [_percent(_cache(r.parts), r.measured.kv + r.measured.state) for r in good]
    thumb = [100 * (1.4 * r.parts["file"] - r.measured.used) / r.measured.used for r in good]
    contexts = [r.measured.context for r in good]
    return {
        "loaded": len(good),
        "weights_worst_pct": max(map(abs, weights), default=0.0),
        "cache_worst_pct": max(map(abs, cache), default=0.0),
        "compute_median_abs_pct": statistics.median(map(abs, compute)) if good else 0.0,
        "compute_worst_pct": max(compute, key=abs, default=0.0),
        "context_median_mib": statistics.median(contexts) if good else 0.0,
        "context_max_mib": max(contexts, default=0.0),
        "total_median_abs_pct": statistics.median(map(abs, total)) if good else 0.0,
        "total_worst_pct": max(total, key=abs, default=0.0),
        "rule_of_thumb_median_abs_pct": statistics.median(map(abs, thumb)) if good else 0.0,
        "worst_under_pct": min((100 * (r.reserve - r.measured.used) / r.measured.used for r in good), default=0.0),
        "records": [asdict(record) for record in records],
    }


def _cache(parts: dict[str, float]) -> float:
    return parts.get("kv", 0.0) + parts.get("state", 0.0)


def _percent(ours: float, measured: float) -> float:
    """To the MiB that logs are rounded to."""
    return 100 * (ours - measured) / measured if abs(ours - measured) > 1 and measured else 0.0
