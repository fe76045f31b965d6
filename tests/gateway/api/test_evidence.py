"""Evidence about a device: what a file says, that it is verified alone, and that whatever is done to it is found."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from gateway.audit.evidence import EvidencePeriod
from gateway.audit_chain import FIELDS, ChainBroken, Head, digest_of
from gateway.audit_evidence import (
    ACTION,
    FORMAT_VERSION,
    EvidenceBroken,
    SliceDigest,
    line_of,
    verify_evidence,
    verify_log_file,
)
from gateway.cli.audit import log_lines
from gateway.cli.server_client import ServerClient
from gateway.delivery.submission import AppRef
from gateway.errors import Problem
from gateway.store.audited_writes import Attempt
from tests.gateway.in_process import InProcessGateway


async def evidence_of(gateway: InProcessGateway, device_id: str, **query: str) -> list[bytes]:
    answer = await gateway.http.get(f"/v1/devices/{device_id}/evidence", params=query)
    assert answer.status_code == 200, answer.text
    return answer.content.splitlines(keepends=True)


@pytest.fixture
async def file(gateway: InProcessGateway) -> list[bytes]:
    """A file about `kiosk-1`, of an app whose log says more."""
    for device in ("kiosk-1", "kiosk-2"):
        await gateway.call("POST", "/v1/devices", 201, json={"device_id": device})
    for number in range(5):
        body = {"target": {"all": True}, "data": number, "ttl": 60}
        await gateway.call("POST", "/v1/pushes", 202, json=body)
        await gateway.call("PATCH", f"/v1/devices/kiosk-{number % 2 + 1}", json={"name": f"hidden-{number}"})
        gateway.clock.milliseconds += 1_000
    return await evidence_of(gateway, "kiosk-1")


def kinds(file: list[bytes]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in file:
        kind = json.loads(line)["type"]
        found[kind] = found.get(kind, 0) + 1
    return found


async def test_a_file_holds_the_slice_of_the_device_and_the_proof(gateway: InProcessGateway, file: list[bytes]) -> None:
    found = verify_evidence(file)
    assert (found.app_id, found.device_id, found.deliveries, found.complete) == ("default", "kiosk-1", 5, True)
    assert found.entries == 1 + 3 + 1, "it was enrolled, changed, and exported"
    deliveries = [json.loads(line)["delivery"] for line in file if b'"type":"delivery"' in line]
    assert {delivery["state"] for delivery in deliveries} == {"waiting"}
    assert all(delivery["sent_by"].startswith("k_") for delivery in deliveries)
    assert b"kiosk-2" not in b"".join(file), "what is about others is there as digests"
    chain = await gateway.call("GET", "/v1/audit/chain")
    assert found.head == Head(chain["head"]["seq"], bytes.fromhex(chain["head"]["hash"]))
    verify_evidence(file, [found.head])
    with pytest.raises(ChainBroken, match="another hash"):
        verify_evidence(file, [replace(found.head, hash=bytes(32))])


async def test_whatever_is_done_to_a_file_is_found(file: list[bytes]) -> None:
    chance = random.Random(1)
    whole = b"".join(file)
    changes = [
        whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(7)]) + whole[place + 1 :]
        for place in range(0, len(whole), 7)
    ]
    for index in range(len(file)):
        rest = file[:index] + file[index + 1 :]
        changes.append(b"".join(rest))
        changes.append(b"".join(file[:index]))
        changes.append(b"".join([*file[: index + 1], *file[index:]]))
        other = chance.randrange(len(file))
        if file[index] != file[other]:
            swapped = list(file)
            swapped[index], swapped[other] = swapped[other], swapped[index]
            changes.append(b"".join(swapped))
    for changed in changes:
        with pytest.raises((EvidenceBroken, ChainBroken)):
            verify_evidence(changed.splitlines(keepends=True))
    assert len(changes) > 500


@pytest.mark.parametrize("entry", ["x", [1], None, 7, True])
def test_what_is_no_entry_is_no_fault_of_the_verifier(entry: Any) -> None:
    place = {"seq": 0, "hash": Head.genesis("default").hash.hex()}
    lines = [line_of("log", app="default"), line_of("base", **place), line_of("entry", entry=entry)]
    with pytest.raises(ChainBroken, match="where entry 1 is to be"):
        verify_log_file([*lines, line_of("head", **place)])


@pytest.mark.parametrize("details", ["x", [], None, {}])
def test_a_chain_of_an_export_without_its_sum_is_found(details: Any) -> None:
    """Whoever makes a file by hand can make its chain as well."""
    genesis, digest = Head.genesis("default"), SliceDigest()
    first = line_of("evidence", version=FORMAT_VERSION, app="default", device_id="kiosk-1")
    digest.add(first)
    entry = dict.fromkeys(FIELDS, "") | {"seq": 1, "action": ACTION, "object": "device:kiosk-1", "result": "done"}
    entry["details"] = details
    head = genesis.follow(digest_of(entry))
    proof = [
        line_of("slice", lines=1, sha256=digest.hex()),
        line_of("base", seq=0, hash=genesis.hash.hex()),
        line_of("entry", entry={**entry, "hash": head.hash.hex()}),
        line_of("head", seq=1, hash=head.hash.hex()),
    ]
    with pytest.raises(EvidenceBroken, match="another export"):
        verify_evidence([first, *proof])


def test_what_is_nested_without_end_is_no_line() -> None:
    with pytest.raises(EvidenceBroken, match="line 1 is no JSON"):
        verify_evidence([b"[" * 100_000 + b"]" * 100_000 + b"\n"])


async def test_a_slice_of_another_export_does_not_fit(gateway: InProcessGateway, file: list[bytes]) -> None:
    await gateway.call("DELETE", "/v1/devices/kiosk-1/mailbox")
    later = await evidence_of(gateway, "kiosk-1")
    border = [json.loads(line)["type"] for line in file].index("base")
    later_border = [json.loads(line)["type"] for line in later].index("base")
    with pytest.raises(EvidenceBroken, match="another export"):
        verify_evidence([*file[:border], *later[later_border:]])
    assert verify_evidence(later).entries == verify_evidence(file).entries + 2


async def test_of_a_time_and_of_a_device_that_is_gone(gateway: InProcessGateway, file: list[bytes]) -> None:
    times = [json.loads(line)["delivery"]["sent_at"] for line in file if b'"type":"delivery"' in line]
    part = await evidence_of(gateway, "kiosk-1", **{"from": times[3], "to": times[1]})
    assert kinds(part)["delivery"] == 2
    verify_evidence(part)
    await gateway.call("DELETE", "/v1/devices/kiosk-1", 204)
    gone = verify_evidence(await evidence_of(gateway, "kiosk-1"))
    assert gone.deliveries == 5
    await gateway.refused("GET", "/v1/devices/nobody/evidence", 404, "device_not_found")
    await gateway.refused(
        "GET", "/v1/devices/kiosk-1/evidence", 403, "forbidden", await gateway.key_for("read", "devices")
    )


async def test_old_entries_have_left_and_the_rest_is_proven(
    gateway: InProcessGateway, file: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = verify_evidence(file).head
    monkeypatch.setattr("gateway.audit.audit_log.APP_BYTES", 600)
    assert await gateway.components.audit.remove_old() > 3
    later = await evidence_of(gateway, "kiosk-1")
    found = verify_evidence(later, [noted, Head(1, bytes(32))])
    assert [head.seq for head in found.older] == [1]
    assert found.entries < verify_evidence(file).entries


@pytest.mark.of_one_server  # the limit is of each
async def test_one_export_of_an_app_at_a_time(gateway: InProcessGateway, file: list[bytes]) -> None:
    exports = gateway.components.services(lambda: False).evidence
    exports._running[1] = 1
    gateway.api.found.evidence._running[1] = 1  # type: ignore[attr-defined]
    await gateway.refused("GET", "/v1/devices/kiosk-1/evidence", 503, "busy")


async def test_an_export_has_its_place_before_its_first_line_is_asked_for(
    gateway: InProcessGateway, file: list[bytes]
) -> None:
    exports = gateway.api.state.services.evidence
    app = AppRef(1, "default")
    attempt = Attempt(1, "key:k_1", ACTION, "device:kiosk-1", "10.0.0.1")
    lines = await exports.begin(app, "kiosk-1", EvidencePeriod(), attempt)
    with pytest.raises(Problem, match="another export"):
        await exports.begin(app, "kiosk-2", EvidencePeriod(), attempt)
    await lines.aclose()
    assert exports._running.total() == 0
    assert verify_evidence(await evidence_of(gateway, "kiosk-1")).entries == verify_evidence(file).entries + 1


async def test_who_asks_for_the_head_alone_exports_nothing(gateway: InProcessGateway, file: list[bytes]) -> None:
    before = await gateway.call("GET", "/v1/audit/chain")
    answer = await gateway.http.head("/v1/devices/kiosk-1/evidence")
    assert (answer.status_code, answer.content) == (200, b"")
    await gateway.database.write(lambda connection: None)  # what it had submitted would be there
    assert await gateway.call("GET", "/v1/audit/chain") == before
    assert gateway.api.state.services.evidence._running.total() == 0


async def test_a_whole_log_is_exported_and_verified(gateway: InProcessGateway, file: list[bytes]) -> None:
    chain = await gateway.call("GET", "/v1/audit/chain")
    page = await gateway.call("GET", "/v1/audit", params={"order": "oldest", "limit": 1000})

    class Client(ServerClient):
        def __init__(self) -> None:
            pass

        def call(self, method: str, path: str, **options: Any) -> Any:
            return chain if path.endswith("/chain") else page

    lines = list(log_lines(Client()))
    assert verify_log_file(lines).at.seq == chain["head"]["seq"]
    for index in range(len(lines)):
        with pytest.raises((EvidenceBroken, ChainBroken)):
            verify_log_file(lines[:index] + lines[index + 1 :])
