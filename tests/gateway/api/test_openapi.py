"""The OpenAPI document says everything, and what it says is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from gateway.api import examples, responses
from gateway.api.operation_problems import OF_ITEMS, OF_NO_OPERATION, WITHOUT_KEY
from gateway.errors import CATALOGUE
from tests.gateway.api.example_calls import call_everything, operations
from tests.gateway.in_process import InProcessGateway, openapi_document

Document = dict[str, Any]


def texts(document: Document) -> Iterator[tuple[str, str]]:
    """Everything in the document that a reader needs a text about, and that text."""
    for name, schema in document["components"]["schemas"].items():
        yield f"schema {name}", schema.get("description", "")
        for field, described in schema.get("properties", {}).items():
            yield f"field {name}.{field}", described.get("description", "")
    for kind in ("securitySchemes", "headers"):
        for name, described in document["components"][kind].items():
            yield f"{kind} {name}", described.get("description", "")
    for method, path, operation in operations(document):
        here = f"{method.upper()} {path}"
        yield here, operation.get("description", "")
        for parameter in operation.get("parameters", ()):
            yield f"{here}: parameter {parameter['name']}", parameter.get("description", "")
        for status, response in operation["responses"].items():
            yield f"{here}: response {status}", response.get("description", "")
            for name, header in response.get("headers", {}).items():
                yield f"{here}: header {name} of {status}", header.get("description") or header["$ref"] + "."
        if "requestBody" in operation:
            yield f"{here}: body", operation["requestBody"].get("description", "")


def without_text(document: Document) -> list[str]:
    """What has no text, or none that is a sentence. FastAPI fills gaps with words that say nothing."""
    return [
        what
        for what, text in texts(document)
        if len(text) < 10
        or text[-1] not in ".)"
        or text == "Successful Response"
        or text[0].islower() != text.startswith(("true: ", "false: "))
    ]


def test_nothing_is_without_a_text() -> None:
    document = openapi_document()
    assert sum(1 for _ in texts(document)) > 900
    assert without_text(document) == []


async def test_what_is_served_is_this_document(gateway: InProcessGateway) -> None:
    assert await gateway.call("GET", "/openapi.json", http=gateway.client(None)) == openapi_document()


def test_a_missing_text_is_found() -> None:
    document = deepcopy(openapi_document())
    push = document["paths"]["/v1/pushes"]
    del document["components"]["schemas"]["PushRequest"]["properties"]["ttl"]["description"]
    del next(each for each in push["post"]["parameters"] if each["in"] == "header")["description"]
    del push["get"]["description"]
    push["get"]["responses"]["200"]["description"] = "Successful Response"
    assert set(without_text(document)) == {
        "field PushRequest.ttl",
        "GET /v1/pushes",
        "GET /v1/pushes: response 200",
        "POST /v1/pushes: parameter Idempotency-Key",
    }


def test_every_body_and_every_answer_has_an_example() -> None:
    document = openapi_document()
    used = set()
    for method, path, operation in operations(document):
        if "requestBody" in operation:
            assert any("example" in content for content in operation["requestBody"]["content"].values()), path
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if status >= "300":
                    assert content["examples"], f"{method} {path}: {status}"
                    continue
                assert "example" in content, f"{method} {path}: {status} {kind}"
                model = content["schema"].get("$ref", "").rpartition("/")[2]
                if kind == "application/json":
                    getattr(responses, f"{model}Response").model_validate(content["example"])
                    used.add(model)
    assert used == set(examples.ANSWERS)
    assert {key for key in examples.BODIES if key[1] not in document["paths"]} == set()


async def test_the_examples_are_accepted_as_they_stand(gateway: InProcessGateway) -> None:
    """Every call of the document is made, with its examples, and answers what the document says."""
    sent = set()
    async for call in call_everything(gateway):
        sent.add((call.method, call.path))
        answer = call.answer
        assert answer.is_success, f"{call.method} {call.path}: {answer.status_code} {answer.text}"
        assert '"status":4' not in answer.text
        check_answer(call.operation["responses"][str(answer.status_code)], answer)
        if call.path == "/v1/analytics":
            for form in ("csv", "ndjson"):
                other = await gateway.http.get(call.path, params={**call.query, "format": form})
                check_answer(call.operation["responses"]["200"], other)
                assert {"fleetpush-limited", "fleetpush-uncounted"} <= set(other.headers)
    assert len(sent) == sum(1 for _ in operations(openapi_document())) - 1


def check_answer(response: Document, answer: Any) -> None:
    """The answer has the type that the document gives it, and the fields of its model and of its example."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    contents = response.get("content", {})
    if not answer.content or "*/*" in contents:
        return
    content = contents[kind]
    shown = content["example"]
    if kind == "application/json":
        model, found = content["schema"]["$ref"].rpartition("/")[2], answer.json()
        getattr(responses, f"{model}Response").model_validate(found)
        assert set(found) == set(shown), model
    elif kind == "application/x-ndjson":
        shapes = [set(json.loads(line)) for line in shown.splitlines()]
        for line in answer.text.splitlines():
            assert set(json.loads(line)) in shapes, line
    else:  # the headings of a table, the names of metrics
        first = shown.splitlines()[0]
        assert first in answer.text.splitlines(), first


def test_a_request_and_an_answer_of_the_same_name_are_two_shapes() -> None:
    document = openapi_document()
    schemas, call = document["components"]["schemas"], document["paths"]["/v1/webhooks"]["post"]
    taken = call["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    answered = call["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert schemas[taken]["required"] == ["url"]
    assert "secret" in schemas[answered]["required"]
    policy = document["paths"]["/v1/policy"]["put"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    nested = schemas[policy.rpartition("/")[2]]["properties"]["consent"]
    assert nested["$ref"] == "#/components/schemas/ConsentPolicyRequest"


@pytest.mark.parametrize("path", ["/v1/channels/{channel_id}", "/v1/webhooks/{webhook_id}", "/v1/devices/{device_id}"])
def test_a_merge_patch_requires_nothing_and_defaults_to_nothing(path: str) -> None:
    document = openapi_document()
    body = document["paths"][path]["patch"]["requestBody"]["content"]["application/merge-patch+json"]
    schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert "required" not in schema
    assert not [field for field, described in schema["properties"].items() if "default" in described]


def test_every_code_is_answered_by_some_operation() -> None:
    document = openapi_document()
    found: set[str] = set(OF_NO_OPERATION).union(*OF_ITEMS.values())
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status >= "400":
                codes = set(response["content"]["application/problem+json"]["examples"])
                assert {str(CATALOGUE[code].status) for code in codes} == {status}
                assert set(re.findall(r"`(\w+)`: ", response["description"])) == codes
                found |= codes
    assert found == set(CATALOGUE)
    assert set(document["components"]["examples"]) == set(CATALOGUE)
    for code, example in document["components"]["examples"].items():
        assert responses.ProblemDocument.model_validate(example["value"]).code == code


async def test_the_scopes_that_the_document_names_are_those_that_are_asked_for(gateway: InProcessGateway) -> None:
    document = openapi_document()
    holders = {scope: await gateway.key_for(scope) for scope in ("send", "read", "devices", "admin")}
    for method, path, operation in operations(document):
        if not path.startswith("/v1/") or (method, path) in WITHOUT_KEY:
            assert "Needs no key." in operation["description"]
            continue
        (named,) = re.findall(r"scope\s(`\w+`(?:\sor\s`\w+`)?)", operation["description"])
        allowed = {*re.findall(r"\w+", named), "admin"} - {"or"}
        query = "?since=x" if path == "/v1/events" else ""  # a stream would not end
        for scope, http in holders.items():
            answer = await http.request(method, re.sub(r"\{\w+\}", "nothing", path) + query)
            assert (answer.status_code != 403) == (scope in allowed), f"{method} {path} with {scope}: {answer.text}"
