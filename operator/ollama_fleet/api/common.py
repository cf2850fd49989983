"""Types shared by the custom resources: conditions, references, quantities and durations."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ollama_fleet.api.base import Document, Observed
from ollama_fleet.api.schema import int_or_string, words


def _clipped(limit: int) -> BeforeValidator:
    """Status texts are shortened, never refused: a long message must not keep the status from being written."""
    return BeforeValidator(lambda value: value[:limit] if isinstance(value, str) else value)


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        json_schema_extra=words("must be the name of an object: a-z, 0-9, '-' and '.', letters or digits at both ends"),
    ),
]
"""Name of an object in the same namespace."""

Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]+\.[0-9]*[1-9][0-9]*)(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
        json_schema_extra={
            **int_or_string(),
            **words("must be a positive quantity with an optional unit, such as 24Gi, 500m or 2"),
        },
    ),
    BeforeValidator(_number_as_text),
]
"""A positive Kubernetes quantity, e.g. ``24Gi``."""

Duration = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
        json_schema_extra=words("must be a duration with units, such as 90s or 1h30m"),
    ),
]
"""A duration as Go writes it, with a unit: ``90s``, ``1h30m``."""

Word = Annotated[str, Field(max_length=253), _clipped(253)]
"""A short text of a status: a name, a reason, a version."""

Text = Annotated[str, Field(max_length=1024), _clipped(1024)]
"""A sentence or an address of a status."""

ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class HeldTo:
    """Marks a field that stays a plain ``dict`` in its wire form but must satisfy ``model``."""

    model: type[BaseModel]

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The model's schema, with its wire form as the value."""
        return core_schema.chain_schema(
            [handler.generate_schema(self.model), core_schema.no_info_plain_validator_function(_wire)]
        )


def _wire(value: BaseModel) -> dict[str, object]:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


class LocalReference(Document):
    """A reference to an object in the same namespace."""

    name: Name
    """Name of the object."""


class Condition(Observed):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=64)]
    """What is spoken of: ``Ready``, ``Reconciling`` or ``Stalled``."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, one of the documented reasons."""
    message: Text = ""
    """One sentence with numbers and the next step."""
    last_transition_time: Annotated[str, Field(max_length=64)]
    """RFC 3339, moves only when ``status`` changes."""
    observed_generation: int = 0
    """Generation of the spec that the condition speaks of."""
