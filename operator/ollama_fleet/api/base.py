"""Base classes of every document that crosses a process boundary."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from ollama_fleet.api.schema import words


class Document(BaseModel):
    """A strict, immutable document: camelCase on the wire, unknown fields are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    def to_wire(self) -> dict[str, object]:
        """The JSON form: camelCase keys, absent optional values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Open(Document):
    """A document of which we know a part: the rest is kept as it is."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})


class Observed(Document):
    """A document written by a possibly newer program: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


Digest = Annotated[
    str,
    Field(
        max_length=71,
        pattern=r"^sha256:[0-9a-f]{64}$",
        json_schema_extra=words("must be sha256: and 64 lower-case hexadecimal digits"),
    ),
]
"""A content digest, ``sha256:`` and 64 hexadecimal digits."""

Bytes = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A size in bytes, as large as every JSON reader can take it."""

Tokens = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A length of context that a server tells."""
