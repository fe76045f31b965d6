"""The file of evidence about a device: what its lines are, and how somebody verifies them with the file alone.

A file has a JSON object in each line, in this order:

- `evidence`: the app, the device, when the file was made and over which time;
- `delivery`, `event`: the ledger's slice, the newest first, as the API answers it;
- `slice`: how many lines that was, and the SHA-256 of all bytes before this line;
- `base`: the place in the app's audit chain from which the proof begins; then every entry behind it in its order, the
  ones about the device as `entry`, all others by their digests alone (`digests`), which say nothing of them;
- `head`: the last place, and the file's end.

The last entry is the one that the export itself has written. It holds the SHA-256 of the slice, and so the chain, whose
head somebody has noted elsewhere, is of the slice as well: what the server has said that day it cannot take back.

The file of a whole audit log (`audit export` without a device) has the lines `log`, `base`, every `entry`, and `head`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.audit_chain import ChainVerifier, Head
from gateway.pages import to_json

FORMAT_VERSION: Final = 1
ACTION: Final = "evidence.export"
LINE_BYTES = 2 * 1024 * 1024
"""Bytes of a line that is read: a page of the API has a mebibyte, and its largest item a little more."""


class EvidenceBroken(Exception):
    """The file is not what a server has written. The message says why."""


@dataclass(slots=True)
class VerifiedEvidence:
    """The content of a file of evidence that agrees with itself."""

    app_id: str
    device_id: str
    made_at: str
    complete: bool
    """False: older deliveries or events had no room."""
    deliveries: int
    events: int
    entries: int
    """Entries of the audit log about the device."""
    head: Head
    older: Sequence[Head]
    """Noted heads of before the proof's base."""


class SliceDigest:
    """Counts and sums up the lines of a slice while they are written or read."""

    def __init__(self) -> None:
        self.lines = 0
        self._sum = hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Add a line, with its end."""
        self.lines += 1
        self._sum.update(line)

    def hex(self) -> str:
        return self._sum.hexdigest()


def line_of(kind: str, **members: Any) -> bytes:
    """Encode a line of the file."""
    return to_json({"type": kind, **members}) + b"\n"


def line_around(kind: str, member: str, encoded: bytes) -> bytes:
    """Encode a line with a member that is JSON already."""
    return b'{"type":"%b","%b":%b}\n' % (kind.encode(), member.encode(), encoded)


def verify_log_file(lines: Iterable[bytes], noted: Iterable[Head] = ()) -> ChainVerifier:
    """Verify a whole audit log that was exported, given line by line: `log`, then every `entry`, and `head`.

    Raises EvidenceBroken, ChainBroken.
    """
    reader = _Reader(iter(lines))
    first = reader.expect("log")
    verifier = ChainVerifier(str(first.get("app")), _place(reader.expect("base")), noted)
    while (line := reader.next())["type"] == "entry":
        verifier.follow(line.get("entry"))
    if line["type"] != "head":
        raise EvidenceBroken(f"a line of the type {line['type']!r} stands among the entries")
    verifier.end(_place(line))
    if reader.has_more():
        raise EvidenceBroken("there is something behind its end")
    return verifier


def verify_evidence(lines: Iterable[bytes], noted: Iterable[Head] = ()) -> VerifiedEvidence:
    """Verify a file of evidence, given line by line with their ends, and say what it is. In constant memory.

    Raises EvidenceBroken, ChainBroken.
    """
    reader = _Reader(iter(lines))
    first = reader.expect("evidence")
    if first.get("version") != FORMAT_VERSION:
        raise EvidenceBroken(f"it is of version {first.get('version')!r}, and this program knows {FORMAT_VERSION}")
    counts = {"delivery": 0, "event": 0}
    while (line := reader.next())["type"] in counts:
        counts[line["type"]] += 1
    stated = reader.summed()
    if line["type"] != "slice" or (line.get("lines"), line.get("sha256")) != stated:
        raise EvidenceBroken("its deliveries and events are not those that were written: their SHA-256 is another one")
    app_id = str(first.get("app"))
    verifier = ChainVerifier(app_id, _place(reader.expect("base")), noted)
    about = f"device:{first.get('device_id')}"
    entries, last = 0, None
    while (line := reader.next())["type"] in ("entry", "digests"):
        if line["type"] == "digests":
            for digest in _digests(line):
                verifier.follow_digest(digest)
            last = None
        else:
            last = line.get("entry")
            verifier.follow(last)
            entries += 1
    if line["type"] != "head":
        raise EvidenceBroken(f"a line of the type {line['type']!r} stands in the proof")
    verifier.end(_place(line))
    if reader.has_more():
        raise EvidenceBroken("there is something behind its end")
    if last is None or (last["action"], last["object"], last["result"]) != (ACTION, about, "done"):
        raise EvidenceBroken("the last entry of the chain is not the one that this export has written")
    details = last["details"]
    if not isinstance(details, dict) or details.get("sha256") != stated[1]:
        raise EvidenceBroken("the chain is of another export: it holds another SHA-256 of deliveries and events")
    return VerifiedEvidence(
        app_id, str(first.get("device_id")), str(first.get("made_at")), bool(details.get("complete")),
        counts["delivery"], counts["event"], entries, verifier.at, verifier.older,
    )  # fmt: skip


class _Reader:
    """Reads the lines of a file, and sums them up."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._digest = SliceDigest()
        self._before: tuple[int, str] = (0, "")

    def next(self) -> dict[str, Any]:
        line = next(self._lines, b"")
        if not line.endswith(b"\n"):
            raise EvidenceBroken("it ends in the middle: the export was broken off, or its end was removed")
        self._before = self._digest.lines, self._digest.hex()
        self._digest.add(line)
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvidenceBroken(f"line {self._digest.lines} is no JSON: {error}") from None
        if not isinstance(found, dict) or not isinstance(found.get("type"), str):
            raise EvidenceBroken(f"line {self._digest.lines} is none of evidence")
        return found

    def expect(self, kind: str) -> dict[str, Any]:
        found = self.next()
        if found["type"] != kind:
            raise EvidenceBroken(f"line {self._digest.lines} is to be of the type {kind!r}: it is no file of evidence")
        return found

    def summed(self) -> tuple[int, str]:
        """Return the number of lines before the last one that was read, and their SHA-256."""
        return self._before

    def has_more(self) -> bool:
        return next(self._lines, b"") != b""


def _place(line: dict[str, Any]) -> Head:
    try:
        return Head(int(line["seq"]), _bytes_of(line["hash"]))
    except (KeyError, TypeError, ValueError):
        raise EvidenceBroken(f"the line {line['type']!r} names no place in a chain") from None


def _digests(line: dict[str, Any]) -> list[bytes]:
    try:
        return [_bytes_of(text) for text in line["digests"]]
    except (KeyError, TypeError, ValueError):
        raise EvidenceBroken("digests of entries are none") from None


def _bytes_of(text: str) -> bytes:
    """Read hexadecimal digits as the server writes them. Raises TypeError, ValueError."""
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("it is written in another way")
    return found
