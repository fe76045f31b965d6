"""Files of pushes: one is sent once, however often the connection breaks, and each line has its answer."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from gateway.cli import push_lines
from gateway.cli.push_lines import with_key
from tests.gateway.cli.fake_server import FakeServer, Request

PUSH = b'{"target": {"all": true}, "kind": "silent"}'


def accepted(request: Request) -> httpx2.Response:
    """All that has a key; the others are refused."""
    lines = []
    for number, line in enumerate(request.body.splitlines()):
        key = json.loads(line)["idempotency_key"] if line.startswith(b"{") else None
        answer: dict[str, Any] = {"status": 202, "push_id": f"p-{key}"}
        lines.append(answer if key else {"status": 400, "code": "malformed_json", "detail": f"no JSON {number}\x1b"})
    return httpx2.Response(200, content=b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def test_keys_are_put_in_and_nothing_else_is_touched() -> None:
    assert with_key(b'{ "a": 1.10, "a": 2}', "k") == b'{"idempotency_key":"k", "a": 1.10, "a": 2}'
    assert json.loads(with_key(b"{}", 'k"1')) == {"idempotency_key": 'k"1'}
    for line in (b'{"idempotency_key": "mine"}', b"[]", b"{", b'"{"', b"\xff\xfe{", b"[" * 100_000):
        assert with_key(line, "k") == line


def test_each_line_has_its_answer(fake: FakeServer) -> None:
    fake.answer = accepted
    file = b"\xef\xbb\xbf" + PUSH + b"\n\r\nnothing\r\n" + PUSH
    ended = fake.run("pushes", "batch", "-", "--idempotency-key", "run", input=file)
    assert (ended.exit_code, ended.stdout) == (1, "p-run-1\np-run-4\n")
    assert ended.stderr == "line 3: no JSON 1� (malformed_json)\n2 accepted, 1 refused.\n"
    assert fake.only.headers["content-type"] == "application/x-ndjson"
    answers = fake.run("pushes", "batch", "-", "--json", input=file).stdout.splitlines()
    assert [json.loads(line)["status"] for line in answers] == [202, 400, 202]


def test_a_part_whose_answer_is_lost_is_sent_again(fake: FakeServer) -> None:
    def answer(request: Request) -> Any:
        if len(fake.requests) == 1:
            raise httpx2.ReadError("gone")
        return accepted(request)

    fake.answer = answer
    ended = fake.run("pushes", "batch", "-", input=PUSH)
    assert (ended.exit_code, ended.stderr) == (0, "1 accepted, 0 refused.\n")
    assert fake.requests[0].body == fake.requests[1].body


def test_who_breaks_off_is_told_how_to_go_on(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_lines, "PART_LINES", 2)

    def answer(request: Request) -> Any:
        if len(fake.requests) > 1:
            raise httpx2.ConnectError("refused")
        return accepted(request)

    fake.answer = answer
    ended = fake.run("pushes", "batch", "-", "--idempotency-key", "a run", input=b"\n".join([PUSH] * 3))
    assert ended.exit_code == 1
    assert "Up to line 2: 2 accepted, 0 refused. The same command with --idempotency-key 'a run'" in ended.stderr
    fake.answer = lambda request: httpx2.Response(200, content=b"<html>")
    assert "another server" in fake.run("pushes", "batch", "-", input=PUSH).stderr


def test_what_is_no_file_of_pushes_is_wrong_use(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_lines, "LINE_BYTES", 100)
    assert "line 2 has more than 100 bytes" in fake.run("pushes", "batch", "-", input=b"\n" + b"x" * 300).stderr
    assert fake.run("pushes", "batch", "no-such-file").exit_code == 2
    assert fake.run("pushes", "batch", "-", "--idempotency-key", "x" * 241, input=PUSH).exit_code == 2
    assert fake.requests == []
