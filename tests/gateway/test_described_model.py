from __future__ import annotations

import sys
from types import ModuleType
from typing import ClassVar

import pytest

from gateway import described_model
from gateway.described_model import DescribedModel, field_descriptions


class Address(DescribedModel):
    """Where somebody lives."""

    street: str
    """Name and
    number."""
    city: str = "Bern"
    """Without its
    country."""
    other: int | None = None
    LIMIT: ClassVar = 3
    """Of a constant, which is no field."""


class Office(Address):
    city: str = "Basel"
    """Where the office is."""
    floor: int = 0
    """0: the ground floor."""

    def method(self) -> None:
        """Of a method."""


class InProcessGateway(DescribedModel):
    address: Address
    """A model in a model."""


def test_the_string_below_a_field_is_its_description() -> None:
    assert field_descriptions(Address) == {"street": "Name and number.", "city": "Without its country."}
    schema = Address.model_json_schema()
    assert schema["properties"]["street"]["description"] == "Name and number."
    assert "description" not in schema["properties"]["other"]
    assert schema["description"] == "Where somebody lives."


def test_a_subclass_inherits_descriptions_and_may_have_its_own() -> None:
    assert field_descriptions(Office) == {
        "street": "Name and number.",
        "city": "Where the office is.",
        "floor": "0: the ground floor.",
    }


def test_a_field_that_is_a_model_keeps_its_own_description_beside_the_models() -> None:
    schema = InProcessGateway.model_json_schema()
    assert schema["properties"]["address"] == {"$ref": "#/$defs/Address", "description": "A model in a model."}
    assert schema["$defs"]["Address"]["properties"]["street"]["description"] == "Name and number."


def test_a_module_without_source_has_no_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compiled_only", ModuleType("compiled_only"))
    assert described_model._docstrings_of_module("compiled_only") == {}


def test_no_source_is_read_while_classes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would be at each start of the server."""

    def read(module: str) -> dict[str, dict[str, str]]:
        raise AssertionError(module)

    monkeypatch.setattr(described_model, "_docstrings_of_module", read)

    class Late(DescribedModel):
        field: int
        """Read when it is asked for."""

    assert Late(field=1).model_dump() == {"field": 1}
    with pytest.raises(AssertionError):
        Late.model_json_schema()
