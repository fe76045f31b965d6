"""Files of pushes that are signed: all lines or none, and the same again when a run is repeated."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx2
import pytest

from client_sim.signatures import SignedToken, SigningKey, Statement
from gateway.cli import batch_signing, push_lines
from gateway.cli.batch_signing import LineSigner, new_run_key, run_of
from gateway.cli.push_lines import PushLine
from tests.gateway.cli.fake_server import FakeServer, Request

PLAY = b'{"target": {"device": "d%d"}, "kind": "command", "data": {"command": "play"}, "ttl": 60}'


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKey:
    monkeypatch.chdir(tmp_path)
    key = SigningKey.new()
    key.write(Path("ops.jwk"))
    return key


def accepted(request: Request) -> httpx2.Response:
    answers = [{"status": 202, "push_id": f"p-{number}"} for number, _ in enumerate(request.body.splitlines())]
    return httpx2.Response(200, content=b"".join(json.dumps(answer).encode() + b"\n" for answer in answers))


def statements(request: Request, key: SigningKey) -> list[Statement]:
    tokens = [json.loads(line)["signed"] for line in request.body.splitlines()]
    return [Statement.of_claims(SignedToken(token).verify(key.okp)) for token in tokens]


def test_each_line_is_signed_for_its_device(fake: FakeServer, key: SigningKey) -> None:
    fake.answer = accepted
    file = b"\xef\xbb\xbf" + PLAY % 1 + b'\n\n { "target":{"device":"d2"},"data":[1.10]}\n'
    ended = fake.run("pushes", "batch", "-", "--sign", "ops.jwk", "--app", "shop", input=file)
    assert (ended.exit_code, ended.stdout) == (0, "p-0\np-1\n")
    command, data = statements(fake.only, key)
    assert (command.audiences, command.kind, command.data) == (("shop/devices/d1",), "command", {"command": "play"})
    assert (command.expires_at - command.issued_at, data.expires_at - data.issued_at) == (60, 86_400)
    assert (data.audiences, data.kind, data.data) == (("shop/devices/d2",), "silent", [1.1])
    assert abs(command.issued_at - time.time()) < 60
    assert b'"target":{"device":"d2"},"data":[1.10]}' in fake.only.body, "the rest of a line is as it was"


def test_a_run_that_is_repeated_signs_the_same_again(
    fake: FakeServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the server knows what it has had, by the idempotency keys, and what is left can be sent later."""
    monkeypatch.setattr(push_lines, "PART_LINES", 2)

    def answer(request: Request) -> Any:
        if len(fake.requests) == 2:
            raise httpx2.ConnectError("refused")
        return accepted(request)

    fake.answer = answer
    file = b"\n".join(PLAY % number for number in range(3))
    ended = fake.run("pushes", "batch", "-", "--sign", "ops.jwk", input=file)
    assert ended.exit_code == 1
    run = ended.stderr.partition("--idempotency-key ")[2].split()[0]
    again = fake.run("pushes", "batch", "-", "--sign", "ops.jwk", "--idempotency-key", run, input=file)
    assert again.exit_code == 0
    first, broken_off, *repeated = [request.body for request in fake.requests]
    assert [first, broken_off] == repeated


def test_a_key_that_names_no_time_is_wrong_use(fake: FakeServer, key: SigningKey) -> None:
    for run in ("nightly", str(uuid.uuid4())):
        ended = fake.run("pushes", "batch", "-", "--sign", "ops.jwk", "--idempotency-key", run, input=PLAY % 1)
        assert ended.exit_code == 2
        assert "an earlier run" in ended.stderr
    assert fake.requests == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nothing", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"kind": "command"}', "one device"),
        (b'{"target": {"devices": ["a"]}, "data": 1}', "one device"),
        (b'{"target": {"all": true}, "data": 1}', "one device"),
        (b'{"target": {"device": "a"}, "notification": {"title": "x"}}', "a signature is for data"),
        (b'{"target": {"device": "a"}, "kind": "alert", "data": 1}', "a signature is for data"),
        (b'{"target": {"device": "a"}, "data": 1, "signed": "x"}', "signed already"),
        (b'{"target": {"device": "a"}, "data": 1, "send_at": "2030-01-01T00:00:00Z"}', "send_at"),
        (b'{"target": {"device": "a"}, "data": 1, "ttl": "1h"}', "ttl"),
        (b'{"target": {"device": "a"}, "data": NaN}', "no JSON"),
        (b'{"target": {"device": "a"}, "data": "\\ud800"}', "no JSON"),
    ],
)
def test_what_cannot_be_signed_is_named_and_nothing_is_sent(
    fake: FakeServer, key: SigningKey, line: bytes, says: str
) -> None:
    ended = fake.run("pushes", "batch", "-", "--sign", "ops.jwk", input=b"\n".join([PLAY % 1, line, PLAY % 2]))
    assert ended.exit_code == 2
    assert ended.stderr.startswith("line 2: ")
    assert says in ended.stderr
    assert "nothing was sent" in ended.stderr
    assert fake.requests == []


def test_a_file_of_nothing_else_ends_soon(fake: FakeServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_signing, "NAMED_LINES", 3)
    ended = fake.run("pushes", "batch", "-", "--sign", "ops.jwk", input=b"x\n" * 1000)
    assert "line 3: " in ended.stderr
    assert "line 4: " not in ended.stderr
    assert "3 lines or more cannot be signed" in ended.stderr


def test_a_later_line_has_a_higher_id(key: SigningKey) -> None:
    """Small devices keep the highest id of a key, and refuse what is not higher."""
    signer = LineSigner(key, "default", run_of(new_run_key(time.time() * 1000)))
    found = []
    for number in (1, 2, 2**20 - 1, 2**20, 2**31):
        token = json.loads(signer.signed(PushLine(number, PLAY % 1)))["signed"]
        found.append(Statement.of_claims(SignedToken(token).verify(key.okp)).statement_id)
    assert found == sorted(set(found))
    assert all(uuid.UUID(one).version == 7 for one in found)
