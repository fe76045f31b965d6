"""Models whose attribute docstrings describe their fields in JSON schema, and so in the OpenAPI document.

pydantic's own `use_attribute_docstrings` looks for the source of every class while the class is made, at each start of
the server. Here a module is read when its schema is asked for, once.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class DescribedModel(BaseModel):
    """A model, each field of which is described by the string literal below it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        properties = handler.resolve_ref_schema(found)["properties"]
        for name, text in field_descriptions(cls).items():
            properties[cls.model_fields[name].alias or name]["description"] = text
        return found


def field_descriptions(model: type[DescribedModel]) -> dict[str, str]:
    """The attribute docstrings of a model's fields, by field name; those of a class win over those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, DescribedModel):
            found.update(attribute_docstrings(base))
    return {name: text for name, text in found.items() if name in model.model_fields}


def attribute_docstrings(cls: type) -> dict[str, str]:
    """The string literals below the attributes of a class at the top of its module, by attribute name; not of bases."""
    return _docstrings_of_module(cls.__module__).get(cls.__qualname__, {})


@cache
def _docstrings_of_module(name: str) -> dict[str, dict[str, str]]:
    """Class name -> attribute name -> the string literal below it, for each class at the top of a module. Nothing for a
    module that is there without its source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError):
        return {}
    return {node.name: _attribute_docstrings(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _attribute_docstrings(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for attribute, text in zip(node.body, node.body[1:], strict=False):
        match attribute, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(inspect.cleandoc(words).split())
    return found
