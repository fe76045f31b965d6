"""Files of the audit log: exported in one piece or not at all, and verified without any server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateway.audit_chain import ChainBroken, ChainVerifier, Head
from gateway.audit_evidence import LINE_BYTES, EvidenceBroken, VerifiedEvidence, verify_evidence, verify_log_file
from gateway.cli.terminal import Failure

FIRST_BYTES = 64
"""Bytes of a file that say of which kind it is."""


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that has its name only when it is complete, for its owner alone. Raises Failure."""
    unnamed = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        unnamed.replace(path)
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror or error}") from None
    finally:
        unnamed.unlink(missing_ok=True)


def verify_file(path: Path, noted: Sequence[Head]) -> list[str]:
    """Verify an exported file, and say in lines what it holds. Raises Failure."""
    try:
        with path.open("rb") as file:
            is_log = file.readline(FIRST_BYTES).startswith(b'{"type":"log"')
            file.seek(0)
            lines = iter(lambda: file.readline(LINE_BYTES), b"")
            return _describe_log(verify_log_file(lines, noted)) if is_log else _describe(verify_evidence(lines, noted))
    except (EvidenceBroken, ChainBroken) as error:
        raise Failure(f"{path} is not as it was written: {error}") from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None


def _describe_log(found: ChainVerifier) -> list[str]:
    return [f"{found.entries} entries agree with their chain, up to {found.at}", *_older(found.older)]


def _describe(found: VerifiedEvidence) -> list[str]:
    return [
        f"evidence about {found.device_id} of the app {found.app_id}, made at {found.made_at}:",
        f"  {found.deliveries} deliveries and {found.events} events"
        + ("" if found.complete else "; older ones had no room"),
        f"  {found.entries} entries of the audit log, in their chain up to {found.head}",
        *_older(found.older),
    ]


def _older(heads: Sequence[Head]) -> list[str]:
    return [f"  {head.seq}: older than what the file proves; nothing can be compared with it" for head in heads]
