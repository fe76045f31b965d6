"""`fleetpush pushes batch --sign`: a file of pushes, each signed for its device before the first is sent.

Laws
1. Nothing is sent before every line is signed: a file with one that cannot be signed is refused as a whole, each such
   line with its number.
2. A run that is repeated signs the same again, so that the server knows what it has had: id and times of a statement
   come from the run's key, which is a UUIDv7, and the line's number. Ed25519 does the rest.
3. Nothing else of a line is touched, as `push_lines.with_key` touches nothing.

The signed lines wait in a temporary file that has no name and that nobody else may read.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from gateway.cli.push_lines import LINE_BYTES, PushLine, lines_of
from gateway.cli.signing import DEFAULT_SECONDS, audiences_of, load_key
from gateway.cli.terminal import Failure, note

if TYPE_CHECKING:
    from client_sim.signatures import SigningKey

SPOOLED_BYTES = 16 * 1024 * 1024
"""Bytes of signed lines that are kept in memory: what the API takes as one batch. More goes to the disk."""
NAMED_LINES = 20
"""Lines that cannot be signed, of which each is named: a screenful. Reading ends with them."""
MAX_TTL_SECONDS = 31_536_000
"""Longest time to live of a push, as the API has it."""


class CannotBeSigned(ValueError):
    """A line of the file that cannot be signed, with the reason as its text."""


def new_run_key(now_ms: float) -> str:
    """Make the key of a run, of which its time (milliseconds since 1970) can be read again."""
    from client_sim.signatures import statement_id

    return statement_id(now_ms / 1000)


def run_of(key: str) -> uuid.UUID:
    """The run that a key names. Raises Failure for a key that says no time."""
    try:
        run = uuid.UUID(key)
    except ValueError:
        run = uuid.NAMESPACE_DNS  # of version 1, which is refused below
    if run.version != 7:
        raise Failure(
            "--idempotency-key with --sign: only the key that an earlier run of this command has named, because what "
            "it has signed is signed the same again",
            2,
        )
    return run


def signed_lines(lines: IO[bytes], key_file: Path, app: str, run: uuid.UUID) -> IO[bytes]:
    """Read the file whole, and return it with each push signed. Raises Failure if one cannot be signed, and OSError."""
    signer = LineSigner(load_key(key_file), app, run)
    signed = cast(IO[bytes], tempfile.SpooledTemporaryFile(SPOOLED_BYTES))  # noqa: SIM115  # the caller closes it
    refused = 0
    for line in lines_of(lines):
        try:
            content = signer.signed(line) if line.content else b""
            if len(content) >= LINE_BYTES:
                raise CannotBeSigned(f"signed, it has more than {LINE_BYTES} bytes")
        except CannotBeSigned as error:
            note(f"line {line.number}: {error}")
            refused += 1
            if refused == NAMED_LINES:
                break
            continue
        if not refused:
            signed.write(content + b"\n")
    if refused:
        signed.close()
        lines_refused = "1 line" if refused == 1 else f"{refused} lines"
        more = " or more" if refused == NAMED_LINES else ""
        raise Failure(f"{lines_refused}{more} cannot be signed, so nothing was sent", 2)
    signed.seek(0)
    return signed


class LineSigner:
    """Signs the lines of one file."""

    def __init__(self, key: SigningKey, app: str, run: uuid.UUID) -> None:
        self._key = key
        self._app = app
        self._run = run

    def signed(self, line: PushLine) -> bytes:
        """The line with its signature put in. Raises CannotBeSigned."""
        from client_sim.signatures import Statement, sign_push

        push = signable(line.content)
        issued_at = (self._run.int >> 80) // 1000
        statement = Statement(
            statement_id=self._statement_id(line.number),
            audiences=tuple(audiences_of(push["target"], self._app)),
            kind=push.get("kind", "silent"),
            data=push.get("data"),
            issued_at=issued_at,
            expires_at=issued_at + push.get("ttl", DEFAULT_SECONDS),
        )
        try:
            token = sign_push(self._key, statement)
        except ValueError as error:  # NaN, half a surrogate pair
            raise CannotBeSigned(f"its data is no JSON: {error}") from None
        start = line.content.index(b"{") + 1
        return b'%b"signed":"%b",%b' % (line.content[:start], token.encode(), line.content[start:])

    def _statement_id(self, number: int) -> str:
        """A UUIDv7 (RFC 9562) of the run's time: counted by lines, so that small devices find a later one higher."""
        digest = hashlib.sha256(f"{self._run} {number}".encode()).digest()
        counted = (
            self._run.int >> 80 << 80 | 7 << 76 | (number >> 20 & 0xFFF) << 64 | 2 << 62 | (number & 0xFFFFF) << 42
        )
        return str(uuid.UUID(int=counted | int.from_bytes(digest[:8]) >> 22))


def signable(content: bytes) -> dict[str, Any]:
    """The push of a line, if a publisher can sign it for its device. Raises CannotBeSigned."""
    try:
        push = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CannotBeSigned(f"no JSON: {error}") from None
    if not isinstance(push, dict):
        raise CannotBeSigned("no JSON object")
    target = push.get("target")
    if not isinstance(target, dict) or [*target] != ["device"] or not isinstance(target["device"], str):
        raise CannotBeSigned('a line is signed for one device: {"target": {"device": ID}, ..}')
    if push.get("kind", "silent") not in ("command", "silent") or push.get("notification") is not None:
        raise CannotBeSigned("a signature is for data: kind command or silent, and no notification")
    if "signed" in push or "encrypted" in push:
        raise CannotBeSigned("it is signed already: send such lines without --sign")
    if push.get("send_at") is not None:
        raise CannotBeSigned("send_at: its time to live would begin now; sign it when it is due")
    ttl = push.get("ttl", DEFAULT_SECONDS)
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not 0 <= ttl <= MAX_TTL_SECONDS:
        raise CannotBeSigned(f"ttl: whole seconds, 0 to {MAX_TTL_SECONDS}")
    return push
