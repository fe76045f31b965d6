from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gateway.api.problems import explain, problem_response, validation_problem
from gateway.delivery.acceptance import Acceptance
from gateway.errors import CATALOGUE, RateLimited, problem
from gateway.store.errors import StorageFull
from tests.gateway.in_process import InProcessGateway


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    colour: str = "red"


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    number: Annotated[int, Field(ge=0)]
    at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "x"
    data: Any = None
    some: Annotated[list[int] | None, Field(min_length=1, max_length=2)] = None
    parts: Annotated[list[Part], Field(max_length=2)] | None = None


def refusal(body: bytes) -> Any:
    with pytest.raises(ValidationError) as error:
        Sample.model_validate_json(body)
    return validation_problem(error.value, body, Sample)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param(b"", "malformed_json", "EOF", id="empty"),
        pytest.param(b"{", "malformed_json", "column", id="cut off"),
        pytest.param(b"\xff", "malformed_json", "line 1", id="not text"),
        pytest.param(b'{"data": "\\u12"}', "malformed_json", "escape", id="a broken escape"),
        pytest.param(b'{"data": "\\ud800"}', "invalid_request", "surrogate", id="an unpaired surrogate is JSON"),
        pytest.param(b'{"data": ' + b"[" * 5000, "invalid_request", "deeply", id="nested deeply"),
        pytest.param(b"[]", "invalid_request", "must be an object", id="not an object"),
        pytest.param(b"{}", "invalid_request", "number: is required", id="missing"),
        pytest.param(b'{"number": -1}', "invalid_request", "number: must be greater", id="out of range"),
        pytest.param(
            b'{"number": 1, "colour": 1}', "invalid_request", "colour: unknown field; leave it out", id="extra"
        ),
        pytest.param(
            b'{"nubmer": 1}', "invalid_request", "nubmer: unknown field; did you mean 'number'?", id="misspelt"
        ),
        pytest.param(
            b'{"number": 1, "parts": [{"color": "red"}]}',
            "invalid_request",
            "parts.0.color: unknown field; did you mean 'colour'?",
            id="misspelt inside",
        ),
        pytest.param(
            b'{"number": 1, "parts": [{"colour": {"number": 1}, "numbre": 1}]}',
            "invalid_request",
            "parts.0.numbre: unknown field; leave it out",
            id="a field of another place",
        ),
        pytest.param(b'{"number": 1, "": 1}', "invalid_request", "unknown field; leave it out", id="no name"),
        pytest.param(b'{"number": 1, "at": "2026-12-01T09:00:00"}', "invalid_request", "offset", id="no offset"),
        pytest.param(b'{"number": 1, "name": "A"}', "invalid_request", "name: must match ^[a-z]+$", id="pattern"),
        pytest.param(b'{"number": 1, "some": []}', "invalid_request", "some: needs at least 1, and has 0", id="few"),
        pytest.param(
            b'{"number": 1, "some": [1, 2, 3]}', "invalid_request", "some: may have 2 at most, and has 3", id="many"
        ),
    ],
)
def test_a_wrong_body_is_explained(body: bytes, code: str, words: str) -> None:
    found = refusal(body)
    assert found.code == code
    assert words in found.detail


def test_many_mistakes_are_cut_short_and_long_names_too() -> None:
    fields = {f"field{n}": 1 for n in range(10)} | {"x" * 1000: 1}
    detail = refusal(json.dumps({"number": 1, **fields}).encode()).detail
    assert detail.count("unknown field") == 3
    assert detail.endswith("and 8 more")
    assert len(explain([{"loc": ("x" * 1000,), "type": "missing", "msg": ""}])) < 100


def test_headers_that_belong_to_a_problem() -> None:
    assert problem_response(problem("unauthorized", "x")).headers["www-authenticate"] == "Bearer"
    assert problem_response(RateLimited(0.2)).headers["retry-after"] == "1"
    assert problem_response(RateLimited(2.5)).headers["retry-after"] == "3"
    assert "retry-after" in problem_response(problem("storage_full", "x")).headers


def test_a_detail_that_is_no_text_does_not_break_the_answer() -> None:
    assert json.loads(bytes(problem_response(problem("not_found", "\ud800")).body))["detail"] == "?"


def test_every_problem_of_the_catalogue_can_be_answered() -> None:
    for code, row in CATALOGUE.items():
        answer = problem_response(problem(code, "x"))
        assert answer.status_code == row.status
        assert answer.media_type == "application/problem+json"


async def test_what_the_framework_refuses_is_a_problem_too(gateway: InProcessGateway) -> None:
    await gateway.refused("GET", "/v1/nothing", 404, "not_found")
    await gateway.refused("GET", "/v1/pushes/", 404, "not_found")
    await gateway.refused("GET", "/docs/static/nothing.js", 404, "not_found")
    answer = await gateway.http.put("/v1/pushes")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    document = await gateway.refused("PUT", "/v1/pushes", 405, "method_not_allowed")
    assert "GET, HEAD, POST" in document["detail"]
    document = await gateway.refused("GET", "/v1/pushes?limit=many", 422, "invalid_request")
    assert document["detail"].startswith("limit: must be a valid integer")
    await gateway.refused("GET", "/v1/pushes?cursor=" + "x" * 200, 422, "invalid_request")


async def test_a_full_disk_is_507(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any, **declared: Any) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(type(gateway.database), "write", full)
    document = await gateway.refused("POST", "/v1/devices", 507, "storage_full", json={})
    assert document["retryable"] is True


async def test_an_exception_nobody_expected_is_500_and_says_nothing_of_itself(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(type(gateway.database), "read", broken)
    document = await gateway.refused("GET", "/v1/devices/dev_secret", 500, "internal_error")
    assert "secret" not in json.dumps(document)
    assert "ZeroDivisionError" in caplog.text
    assert "dev_secret" not in caplog.text


async def test_an_exception_in_a_push_is_500_as_well(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`POST /v1/pushes` goes around the framework's layers, and with them around its handlers."""

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(Acceptance, "accept_pending", broken)
    document = await gateway.refused(
        "POST", "/v1/pushes", 500, "internal_error", json={"target": {"device": "d"}, "data": 1}
    )
    assert "secret" not in str(document)
