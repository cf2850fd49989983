"""``kubectl ollama plan``: what the operator would make of a wish, without a cluster."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from ollama_fleet.api.ollamadeployment import TuningSpec
from ollama_fleet.cli import gpus, plantable, sources, wishes
from ollama_fleet.planning.footprints import Options, server_shape
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.quantities import parse_bytes
from ollama_fleet.planning.request import PlanRequest
from ollama_fleet.planning.versions import DEFAULT, Version
from ollama_fleet.sizing.portable import from_document

_FITS, _ERROR, _DOES_NOT_FIT = 0, 1, 2


def run(options: argparse.Namespace) -> int:
    """0 when everything fits, 2 when something does not, 1 when it cannot be told."""
    try:
        return _plan(options)
    except (gpus.InvalidGPU, wishes.InvalidWish, sources.UnknownModel) as error:
        sys.stderr.write(f"kubectl-ollama: {error}\n")
        return _ERROR


def _plan(options: argparse.Namespace) -> int:
    if bool(options.model) == bool(options.file):
        raise wishes.InvalidWish("name a model, or give manifests with -f")
    inventory = _inventory(options)
    file = options.model if options.model and options.model.endswith(".gguf") else None
    manifests = (
        wishes.read(options.file)
        if options.file
        else wishes.single(options.model, context=_tokens(options.context), parallel=options.parallel)
    )
    found = sources.look_up(wishes.wanted(manifests, file=file), offline=options.offline)
    requests = wishes.requests(manifests, found, inventory)
    names = [model.name for spec in manifests.model_sets.values() for model in spec.models]
    origins = dict(zip(names, (one.source for one in found), strict=True))
    worst = _FITS
    documents = {}
    for name, request in requests.items():
        asked = wishes.changed(request, kv=options.kv, version=options.ollama)
        plan = plan_deployment(asked)
        sized = _sized(asked, inventory, origins)
        if plan.problems or plan.left_out:
            worst = _DOES_NOT_FIT
        documents[name] = _document(plan, sized)
        if options.output == "table":
            colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            print("\n".join(plantable.render(name, plan, sized, colour=colour)))
    if options.output == "json":
        print(json.dumps(documents, indent=2))
    elif options.output == "yaml":
        print(yaml.safe_dump(documents, sort_keys=False), end="")
    return worst


def _inventory(options: argparse.Namespace) -> Inventory:
    if options.servers < 1:
        raise gpus.InvalidGPU(f"--servers {options.servers}: at least 1")
    if options.gpu:
        return gpus.by_memory(options.gpu, servers=options.servers)
    return gpus.by_product(options.gpu_product, servers=options.servers)


def _sized(request: PlanRequest, inventory: Inventory, origins: dict[str, str]) -> plantable.Sized:
    tuning = request.spec.tuning or TuningSpec()
    version = Version.parse(request.spec.version) if request.spec.version else DEFAULT
    views = [view for view in request.model_sets.values() if view]
    shapes = {m.name: from_document(m.header) for view in views for m in view.status.models if m.header}
    return plantable.Sized(
        inventory=inventory,
        server=server_shape(inventory, tuning, version=version),
        options=Options.of(tuning, version=version, gpus=inventory.gpus),
        shapes=shapes,
        sources={name: source for name, source in origins.items() if name in shapes},
    )


def _document(plan: Plan, sized: plantable.Sized) -> Mapping[str, Any]:
    """For programs: bytes, and the words of the status."""
    return {
        "version": plan.version,
        "fits": not plan.problems and not plan.left_out,
        "groups": [
            {
                "name": group.name,
                "replicas": group.replicas,
                "parallel": group.config.num_parallel,
                "environment": {setting.name: setting.value for setting in group.environment},
                "models": {
                    name: {
                        "parts": {part.name: part.bytes for part in guess.parts},
                        "total": guess.total,
                        "reserve": guess.reserve,
                        "perGPU": list(guess.per_gpu),
                        "confidence": guess.confidence,
                        "source": sized.sources.get(name, ""),
                    }
                    for name, guess in plantable.estimates(group, sized).items()
                },
            }
            for group in plan.groups
        ],
        "problems": [
            {"reason": str(problem.reason), "message": problem.message} for problem in (*plan.problems, *plan.left_out)
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
