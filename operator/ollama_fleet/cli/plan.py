"""``kubectl ollama plan``: what the operator would make of a wish, without a cluster."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ollama_fleet.cli import gpus, plantable, sources, wishes
from ollama_fleet.cli.planview import PlanView, view
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.quantities import parse_bytes

_FITS, _ERROR, _DOES_NOT_FIT = 0, 1, 2


def run(options: argparse.Namespace) -> int:
    """0 when everything fits, 2 when something does not, 1 when it cannot be told."""
    try:
        views = _plan(options)
    except (gpus.InvalidGPU, wishes.InvalidWish, sources.UnknownModel) as error:
        sys.stderr.write(f"kubectl-ollama: {error}\n")
        return _ERROR
    _print(views, options.output)
    return _FITS if all(one.fits for one in views) else _DOES_NOT_FIT


def _plan(options: argparse.Namespace) -> list[PlanView]:
    card = _card(options)
    manifests = _manifests(options, card)
    file = options.model if options.model and options.model.endswith(".gguf") else None
    wanted = wishes.wanted(manifests, file=file)
    if not options.offline and sys.stderr.isatty():
        sys.stderr.write(f"reading the headers of {len(wanted)} models ...\n")
    found = sources.look_up(wanted, offline=options.offline)
    requests = wishes.requests(manifests, found, card, servers=options.servers)
    headers = iter(found)
    origins = {
        (namespace, model.name): next(headers)
        for (namespace, _), spec in manifests.model_sets.items()
        for model in spec.models
    }
    views = []
    for (namespace, name), request in requests.items():
        asked = wishes.changed(request, kv=options.kv, version=options.ollama)
        title = f"{namespace}/{name}" if namespace else name
        known = {model: one for (where, model), one in origins.items() if where == namespace}
        views.append(view(title, asked, plan_deployment(asked), known))
    return views


def _card(options: argparse.Namespace) -> gpus.Card | None:
    if options.servers < 1:
        raise gpus.InvalidGPU(f"--servers {options.servers}: at least 1")
    if options.gpu:
        return gpus.by_memory(options.gpu)
    return gpus.by_product(options.gpu_product) if options.gpu_product else None


def _manifests(options: argparse.Namespace, card: gpus.Card | None) -> wishes.Manifests:
    if bool(options.model) == bool(options.file):
        raise wishes.InvalidWish("name a model, or give manifests with -f")
    if not options.file:
        context = _tokens(options.context)
        return wishes.single(options.model, context=context, parallel=options.parallel, card=card)
    if options.context or options.parallel:
        raise wishes.InvalidWish("--context and --parallel go with a model: with -f, set them in the manifests")
    return wishes.read([Path(file) for file in options.file], card=card)


def _print(views: list[PlanView], output: str) -> None:
    if output == "json":
        print(json.dumps({one.name: _document(one) for one in views}, indent=2))
    elif output == "yaml":
        print(yaml.safe_dump({one.name: _document(one) for one in views}, sort_keys=False), end="")
    elif not _on_terminal(views):
        for number, one in enumerate(views):
            print(*([""] if number else []), *plantable.render(one), sep="\n")


def _on_terminal(views: list[PlanView]) -> bool:
    """Whether it was shown on a terminal; a pipe, or a Python without rich, gets plain text."""
    if not sys.stdout.isatty():
        return False
    try:
        from ollama_fleet.cli import planterminal  # noqa: PLC0415 - a pipe must not wait for it
    except ImportError:
        return False
    planterminal.show(views)
    return True


def _document(shown: PlanView) -> Mapping[str, Any]:
    """For programs: bytes, and the words of the status."""
    plan = shown.plan
    return {
        "version": plan.version,
        "fits": shown.fits,
        "groups": [
            {
                "name": group.name,
                "replicas": group.replicas,
                "parallel": group.config.num_parallel,
                "kvCacheType": group.options.kv_type,
                "environment": {setting.name: setting.value for setting in group.environment},
                "hostMemory": {"request": group.memory.request, "limit": group.memory.limit},
                "gpus": [{"used": bar.used, "usable": bar.usable} for bar in seen.bars],
                "models": {
                    row.name: {
                        "slots": row.slots,
                        "residency": row.residency,
                        "parts": {part.name: part.bytes for part in row.estimate.parts},
                        "total": row.estimate.total,
                        "reserve": row.estimate.reserve,
                        "planned": group.planned.get(row.name, 0),
                        "perGPU": list(row.estimate.per_gpu),
                        "confidence": row.estimate.confidence,
                        "source": shown.sources.get(row.name, ""),
                    }
                    for row in seen.rows
                    if row.estimate is not None
                },
            }
            for group, seen in zip(plan.groups, shown.groups, strict=True)
        ],
        "effective": [value.to_wire() for value in plan.effective],
        "problems": [
            {
                "reason": str(problem.reason),
                "message": problem.message,
                "remedies": [dict(remedy.change) for remedy in problem.remedies],
            }
            for problem in (*plan.problems, *plan.left_out)
        ],
    }


def _tokens(text: str | None) -> int | None:
    """``32k`` is 32768."""
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else parse_bytes(f"{text.rstrip('kK')}Ki")
    except ValueError as error:
        raise wishes.InvalidWish(f"--context {text}: write a number of tokens, such as 8192 or 32k") from error
