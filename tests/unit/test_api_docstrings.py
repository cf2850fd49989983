"""Docstrings below fields become descriptions in the schema."""

from pydantic import Field

from ollama_fleet.api.base import Document
from ollama_fleet.api.docstrings import docstrings
from ollama_fleet.api.schema import structural


class Inner(Document):
    """An inner document."""

    size_bytes: int
    """How large
    it is."""
    silent: int


class Outer(Document):
    """An outer document."""

    first: Inner | None = None
    """The first one."""
    others: list[Inner] = Field(default=[], max_length=2)
    """The rest."""


class Heir(Outer):
    """A document with fields of another."""

    others: list[Inner] = Field(default=[], max_length=3)
    """All the rest."""
    own: str = ""
    """Its own."""


def test_fields_are_described_by_the_string_below_them() -> None:
    assert docstrings(Inner) == {"size_bytes": "How large\nit is."}


def test_an_heir_describes_inherited_fields_and_may_describe_them_anew() -> None:
    assert docstrings(Heir) == {"first": "The first one.", "others": "All the rest.", "own": "Its own."}


def test_a_schema_has_them_at_every_depth_and_by_the_names_of_the_wire() -> None:
    found = structural(Heir)["properties"]
    assert {name: value["description"] for name, value in found.items()} == docstrings(Heir)
    inner = found["others"]["items"]["properties"]
    assert inner["sizeBytes"]["description"] == "How large it is."
    assert "description" not in inner["silent"]
