"""Types shared by the custom resources: conditions, references, quantities and durations."""

from typing import Annotated, Literal

from pydantic import Field

from ollama_fleet.api.base import Document, Observed

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of an object in the same namespace."""

Quantity = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
"""A Kubernetes quantity as a string, e.g. ``24Gi``."""

Duration = Annotated[str, Field(max_length=32, pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$")]
"""A duration as Go writes it, with a unit: ``90s``, ``1h30m``."""

ConditionStatus = Literal["True", "False", "Unknown"]


class LocalReference(Document):
    """A reference to an object in the same namespace."""

    name: Name


class Condition(Observed):
    """A Kubernetes condition."""

    type: str = Field(max_length=64)
    status: ConditionStatus
    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=1024)
    last_transition_time: str
    """RFC 3339, moves only when ``status`` changes."""
    observed_generation: int = 0
