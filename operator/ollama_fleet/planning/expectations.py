"""What a plan promises of the models of a group that runs, for those who hold it against what is measured. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.planning.footprints import Options, Shapes, estimate_of
from ollama_fleet.planning.grouping import same_weights


@dataclass(frozen=True, slots=True)
class Expectation:
    """By model; one whose header is not known is in neither."""

    planned: Mapping[str, int] = field(default_factory=dict)
    """GPU bytes that it takes at the least: what is expected, not the upper bound that admission counts with."""
    contexts: Mapping[str, int] = field(default_factory=dict)
    """Tokens per slot: never more than it was trained for, to which Ollama clips them."""


def expect(config: GroupConfig, shapes: Shapes, options: Options) -> Expectation:
    """For a group that runs with ``options``."""
    planned, contexts, counted = {}, {}, list[GroupModel]()
    for model in config.models:
        shape = shapes.get(model.name)
        if shape is None:
            continue
        if model.context_length:
            contexts[model.name] = min(model.context_length, shape.context_length or model.context_length)
        if any(same_weights(model, other) and model.residency == other.residency for other in counted):
            # One process serves both names.
            continue
        counted.append(model)
        # On one GPU or on all is Ollama's choice, and on each there are a context and a compute buffer.
        ways = [replace(options, gpus=count) for count in {1, options.gpus or 1}]
        planned[model.name] = min(estimate_of(model, shape, way, parallel=config.num_parallel).total for way in ways)
    return Expectation(planned, contexts)
