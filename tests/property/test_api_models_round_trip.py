"""Whatever the definitions allow, the models read without loss, and write within the definitions' limits."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_fleet.api.crd import DEFINITIONS, Definition
from ollama_fleet.api.schema import structural
from tests.support.schema_documents import documents

SIDES = [(kind, side) for kind in DEFINITIONS for side in ("spec", "status")]
STRATEGIES = {(kind.kind, side): documents(structural(getattr(kind, side))) for kind, side in SIDES}
QUANTITIES = {"cores", "memory", "minMemory", "gpuOverhead", "hostMemory", "sizeLimit"}


@pytest.mark.parametrize(("kind", "side"), SIDES, ids=[f"{kind.kind}.{side}" for kind, side in SIDES])
@settings(max_examples=40)
@given(data=st.data())
def test_models_read_and_write_what_the_schema_allows(kind: Definition, side: str, data: st.DataObject) -> None:
    model = getattr(kind, side)
    document = data.draw(STRATEGIES[kind.kind, side])
    wire = model.model_validate(document).to_wire()
    assert _without_defaults(wire, document) == (_as_text(document) if side == "spec" else document)
    assert model.model_validate(wire).to_wire() == wire


def _as_text(value: Any) -> Any:
    """Quantities that were written as numbers come back as text."""
    if isinstance(value, dict):
        return {
            key: str(inner) if key in QUANTITIES and isinstance(inner, int) else _as_text(inner)
            for key, inner in value.items()
        }
    return [_as_text(item) for item in value] if isinstance(value, list) else value


def _without_defaults(wire: Any, given_: Any) -> Any:
    """What a status adds of its own: fields that the document left out."""
    if isinstance(wire, dict) and isinstance(given_, dict):
        return {key: _without_defaults(value, given_[key]) for key, value in wire.items() if key in given_}
    if isinstance(wire, list) and isinstance(given_, list):
        return [_without_defaults(one, other) for one, other in zip(wire, given_, strict=True)]
    return wire
