"""What of a spec cannot work with the chosen version of Ollama."""

from collections.abc import Iterator

from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec, TuningSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning.abilities import PLAIN_CACHES, cache_known, indivisible
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.rooms import Wish
from ollama_fleet.planning.variables import objection
from ollama_fleet.planning.versions import FLOOR, Generation, Version


def objections(spec: OllamaDeploymentSpec, version: Version) -> Iterator[Problem]:
    """What cannot work, or would be ignored in silence, whatever the models."""
    if version < FLOOR:
        yield Problem(
            Reason.UNSUPPORTED_VERSION,
            f"spec.version {version} is older than {FLOOR}, the oldest supported: choose a newer one",
        )
    tuning = spec.tuning or TuningSpec()
    for variable in tuning.extra_env or ():
        found = objection(variable.name, version)
        if found:
            yield Problem(Reason.UNKNOWN_VARIABLE, f"spec.tuning.extraEnv: {found}")
    kind = tuning.kv_cache_type
    if kind is not None and not cache_known(kind, version.generation):
        yield Problem(
            Reason.UNKNOWN_VARIABLE,
            f"spec.tuning.kvCacheType: OLLAMA_KV_CACHE_TYPE={kind} is ignored by Ollama {version}, which knows f16, "
            "q8_0 and q4_0: choose one of them",
        )
    if (spec.hardware.gpu is None) == (spec.hardware.cpu is None):
        yield Problem(Reason.INVALID_SPEC, "spec.hardware: set exactly one of hardware.gpu and hardware.cpu")


def heads(wish: Wish) -> Iterator[Problem]:
    """An explicit type of cache with which llama.cpp refuses to load a model."""
    kind = wish.kv_type
    if kind is None or kind in PLAIN_CACHES or wish.options.version.generation is Generation.IN_PROCESS:
        return
    for name in sorted(wish.shapes.keys() & wish.wants.keys()):
        shape = wish.shapes[name]
        length = None if shape.encoder else indivisible(shape, kind)
        if length:
            yield Problem(
                Reason.INVALID_SPEC,
                f"spec.tuning.kvCacheType {kind}: the heads of {name} have {length} elements, which do not divide "
                "into blocks of that type, so llama.cpp refuses to load it: choose f16, or serve it in a deployment of "
                "its own",
            )
