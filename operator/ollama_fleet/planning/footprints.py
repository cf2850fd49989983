"""What each model of a deployment takes of a GPU, by the options that its servers would run with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.ollamadeployment import TuningSpec
from ollama_fleet.planning.abilities import PLAIN_CACHES, flash_attention, flash_kernel
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.quantities import parse_bytes
from ollama_fleet.planning.remembered import least
from ollama_fleet.planning.scheduler import Footprint, ServerShape
from ollama_fleet.planning.versions import Generation, Version
from ollama_fleet.sizing.calibration import Calibration, Key
from ollama_fleet.sizing.context import DriverContext, context_on
from ollama_fleet.sizing.estimate import MIB, Estimate, estimate
from ollama_fleet.sizing.load import Engine, Load, engine_of
from ollama_fleet.sizing.shape import ModelShape

MARGIN = {Generation.LLAMA_SERVER: 1024 * MIB, Generation.IN_PROCESS: 457 * MIB}
"""Left free on each GPU by each generation unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How the servers of a group run: what all of their models share, and the plan chooses."""

    parallel: int
    """Slots of each model."""
    kv_type: str = "f16"
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What all models of a server share."""

    version: Version
    gpus: int
    kv_type: str = "f16"
    flash_attention: bool = True
    product: str = ""
    """Of the GPUs that were sized on; measurements of others do not count."""
    measured: Calibration = field(default_factory=Calibration)

    @classmethod
    def of(
        cls,
        tuning: TuningSpec,
        *,
        version: Version,
        gpus: int,
        product: str = "",
        measured: Calibration | None = None,
    ) -> "Options":
        """As the deployment's tuning says."""
        return cls(
            version,
            gpus,
            kv_type=tuning.kv_cache_type or "f16",
            flash_attention=tuning.flash_attention is not False,
            product=product,
            measured=measured or Calibration(),
        )


def server_shape(inventory: Inventory, tuning: TuningSpec, *, version: Version) -> ServerShape:
    """The GPUs of one server, as its version of Ollama uses them."""
    margin = MARGIN[version.generation]
    if tuning.gpu_overhead:
        # Up to 0.24 it is kept free beside what Ollama keeps free anyway, from 0.30 on it takes its place.
        overhead = parse_bytes(tuning.gpu_overhead)
        margin = overhead if version.generation is Generation.LLAMA_SERVER else margin + overhead
    spread = bool(tuning.sched_spread) and inventory.gpus > 1
    return ServerShape(inventory.gpus, inventory.usable, margin, version.generation, spread)


def footprint(model: GroupModel, shape: ModelShape | None, options: Options, *, parallel: int) -> Footprint:
    """What the model takes; a model of which no header is known takes nothing, which the plan says."""
    if shape is None:
        return Footprint(model.name, whole=0, split=0, predicted=0, priority=model.priority)
    whole = estimate_of(model, shape, replace(options, gpus=1), parallel=parallel)
    split = estimate_of(model, shape, options, parallel=parallel) if options.gpus > 1 else whole
    return Footprint(
        model.name,
        whole=whole.reserve,
        split=max(split.reserve_per_gpu),
        predicted=whole.predicted,
        priority=model.priority,
    )


def least_of(model: GroupModel, shape: ModelShape | None, options: Options, *, parallel: int) -> int:
    """Bytes that the model takes at the very least by the formulas; far cheaper than its footprint."""
    if shape is None:
        return 0
    return least(shape, _load(model, shape, options, parallel), _engine(shape, options))


def estimate_of(model: GroupModel, shape: ModelShape, options: Options, *, parallel: int) -> Estimate:
    """The estimate behind a footprint."""
    guess = _estimate(
        shape,
        _load(model, shape, options, parallel),
        _engine(shape, options),
        options.gpus,
        context_on(options.product),
    )
    if not options.measured.entries:
        return guess
    return options.measured.correct(guess, calibration_key(model, options, parallel=parallel, product=options.product))


def _engine(shape: ModelShape, options: Options) -> Engine:
    return engine_of(shape.architecture, llama_server=options.version.generation is Generation.LLAMA_SERVER)


def _load(model: GroupModel, shape: ModelShape, options: Options, parallel: int) -> Load:
    """What Ollama makes of the options for this model: not every model can be run as all are told to."""
    generation, flash, kv_type = options.version.generation, options.flash_attention, options.kv_type
    if not shape.encoder:
        able = flash_attention(shape, generation)
        if generation is Generation.LLAMA_SERVER and kv_type in PLAIN_CACHES:
            able = able and flash_kernel(shape)
        flash = flash and able
    if generation is Generation.IN_PROCESS and not flash and kv_type not in PLAIN_CACHES:
        kv_type = "f16"
    return Load(
        context=model.context_length or 1,
        parallel=parallel,
        kv_type=kv_type,
        flash_attention=flash,
        batch=batch_of(model),
    )


def batch_of(model: GroupModel) -> int | None:
    """Tokens of a micro-batch that its Modelfile asks for; None leaves it to Ollama."""
    asked = str(model.modelfile.parameters.get("num_batch", ""))
    return int(asked) if asked.isdecimal() and int(asked) else None


def calibration_key(model: GroupModel, options: Options, *, parallel: int, product: str) -> Key:
    """Under which a load of the model is remembered."""
    return Key(
        weights=model.manifest_digest,
        context=model.context_length or 1,
        parallel=parallel,
        kv_type=options.kv_type,
        flash_attention=options.flash_attention,
        gpu=product,
        gpus=options.gpus,
        ollama=f"{options.version.major}.{options.version.minor}",
    )


@lru_cache(maxsize=4096)
def _estimate(shape: ModelShape, load: Load, engine: Engine, gpus: int, driver: DriverContext) -> Estimate:
    """Laying out a graph takes a millisecond; a plan asks for the same one many times."""
    return estimate(shape, load, engine, gpus=gpus, driver=driver)


Shapes = Mapping[str, ModelShape]
"""By served name; a model whose file could not be read is not in it."""
