"""The docstrings of fields, as descriptions of a JSON schema.

pydantic can carry them in the models, but reads the source of every model for it at each start: 0.2 s of every pod's.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel


def describe(schema: Mapping[str, Any], model: type[BaseModel]) -> None:
    """Put the docstrings into the properties of a model's schema and of the models that it refers to."""
    known = {one.__name__: one for one in _family(BaseModel)}
    for name, definition in (*schema.get("$defs", {}).items(), (model.__name__, schema)):
        if name in known:
            texts = docstrings(known[name])
            for field, info in known[name].model_fields.items():
                if field in texts:
                    definition["properties"][info.alias or field]["description"] = texts[field]


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """By field, also of inherited ones, the string that stands below it."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found |= _own(owner)
    return found


def _own(model: type[BaseModel]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = inspect.cleandoc(text)
    return found


def _family(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _family(child)
