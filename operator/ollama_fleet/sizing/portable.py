"""Shapes as documents: what the ModelSet's status keeps, so that no header is read twice."""

from dataclasses import asdict, replace

from pydantic import ValidationError

from ollama_fleet.api.modelheader import LatentAttention, LayerKind, ModelHeader, RecurrentMixer, TensorBytes
from ollama_fleet.sizing.gguf import InvalidHeader
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.metadata import MAX_LAYERS
from ollama_fleet.sizing.shape import Latent, Mixer, ModelShape, check
from ollama_fleet.sizing.weights import Weights


def to_document(model: ModelShape) -> ModelHeader:
    """The shape with its layers counted by kind. Raises InvalidHeader for numbers beyond those of any model."""
    counts: dict[Layer, int] = {}
    for layer in model.layers:
        counts[layer] = counts.get(layer, 0) + 1
    values = asdict(replace(model, layers=()))
    try:
        return ModelHeader(
            **{
                **values,
                "layers": [LayerKind(count=count, **asdict(layer)) for layer, count in counts.items()],
                "weights": TensorBytes(**values["weights"]),
                "latent": LatentAttention(**values["latent"]) if values["latent"] else None,
                "latent_heads": LatentAttention(**values["latent_heads"]) if values["latent_heads"] else None,
                "mixer": RecurrentMixer(**values["mixer"]) if values["mixer"] else None,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in (error.title, *first["loc"]))
        raise InvalidHeader(f"{field} is {first['input']!r:.64}: {first['msg']}") from error


def from_document(header: ModelHeader) -> ModelShape:
    """The shape again; layers stand by kind, which no estimate minds. Raises InvalidHeader: others may write one."""
    values = header.model_dump()
    layers: list[Layer] = []
    for kind in values.pop("layers"):
        count = min(kind.pop("count"), MAX_LAYERS - len(layers))
        layers += [Layer(**kind)] * count
    values["weights"] = Weights(**values["weights"])
    for name in ("latent", "latent_heads"):
        values[name] = Latent(**values[name]) if values[name] else None
    # What others write into a status may miss something.
    mixer = Mixer(**values["mixer"]) if values["mixer"] else None
    values["mixer"] = mixer if mixer and mixer.whole else None
    shape = ModelShape(layers=tuple(layers), **values)
    check(shape)
    return shape
