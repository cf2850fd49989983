"""Whether models fit the memory of servers without a GPU."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning.fitting import Fitted
from ollama_fleet.planning.footprints import Options, Shapes, estimate_of
from ollama_fleet.planning.problems import Problem, Remedy
from ollama_fleet.planning.quantities import parse_bytes
from ollama_fleet.sizing.estimate import GIB, Estimate
from ollama_fleet.sizing.shape import ModelShape


def weights(shape: ModelShape, found: Estimate) -> int:
    """Bytes of the tensors where all are on the host: a tied output is no copy of the embeddings there."""
    return min(found.part("weights") + shape.weights.host, max(shape.file_bytes, found.part("weights")))


def refusals(groups: Mapping[str, Fitted], shapes: Shapes, options: Options, *, memory: str) -> Iterator[Problem]:
    """Groups whose models take more than the servers have: their servers would be killed, again and again.

    What is expected is held against the limit, without a reserve: a model of unknown size counts nothing.
    """
    for fitted in groups.values():
        chosen = replace(options, kv_type=fitted.mode.kv_type, gpus=1)
        found = {m.name: _need(m, shapes, chosen, parallel=fitted.mode.parallel) for m in fitted.models}
        pinned = [model.name for model in fitted.models if model.residency == "Pinned"]
        guest = max((found[name] for name in found.keys() - set(pinned)), default=0)
        needed = sum(found[name] for name in pinned) + guest
        if needed > parse_bytes(memory):
            names = ", ".join(sorted(found, key=lambda name: (-found[name], name))[:3])
            enough = -(-needed // GIB)
            yield Problem(
                Reason.DOES_NOT_FIT,
                f"{names}: {needed / GIB:.1f} GiB are needed with OLLAMA_NUM_PARALLEL={fitted.mode.parallel}, and "
                f"hardware.cpu.memory is {memory}: at least {enough}Gi would make it fit; so would fewer slots, "
                "smaller contexts or smaller files",
                remedies=(Remedy(f"hardware.cpu.memory {enough}Gi", {"memory": f"{enough}Gi"}),),
            )


def _need(model: GroupModel, shapes: Shapes, options: Options, *, parallel: int) -> int:
    shape = shapes.get(model.name)
    if shape is None:
        return 0
    found = estimate_of(model, shape, options, parallel=parallel)
    beside = ("kv", "state", "compute", "projector")
    return weights(shape, found) + sum(found.part(name) for name in beside)
