"""A fleet enrols itself: labels are printed, read by a program that is not ours, and traded for tokens over TLS."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
import zxingcpp

from client_sim.credential import Credential
from client_sim.device import Device
from client_sim.enrolment import enrol
from client_sim.errors import EnrolmentFailed
from client_sim.push import Push
from tests.end_to_end.conftest import Name, StartServer
from tests.end_to_end.harness import Server, fleetpush, running, wait_for

FLEET_TENTH = 20
"""Two hundred devices with `--full`."""
DOTS_PER_INCH = 200
"""As an office printer at its worst."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a certificate of the fleet's own CA."""
    folder = tmp_path_factory.mktemp("enrolment")
    data = folder / "data"
    done = fleetpush("tls", "init", "--name", "localhost", "--data-dir", str(data), cwd=folder)
    assert done.returncode == 0, done.stderr
    with Server(data, ca=data / "tls" / "ca.pem") as server:
        yield server


def run(server: Server, *words: str) -> str:
    done = fleetpush(*words, "--data-dir", str(server.data_dir), cwd=server.data_dir.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def codes_on(pdf: Path) -> list[str]:
    """What a reader of QR codes finds on the rendered pages."""
    found = []
    document = pypdfium2.PdfDocument(pdf)
    for page in document:
        picture = page.render(scale=DOTS_PER_INCH / 72).to_pil()
        found += [code.text for code in zxingcpp.read_barcodes(picture)]
    document.close()
    return found


@pytest.mark.long
def test_a_fleet_enrols_from_one_pdf(fleet: Server, tmp_path: Path, full: int) -> None:
    count = FLEET_TENTH * full
    pdf, table = tmp_path / "codes.pdf", tmp_path / "codes.csv"
    run(
        fleet, "devices", "invite", "--count", str(count), "--prefix", "shop-", "--tag", "store-7",
        "--expires", "7d", "--pdf", str(pdf), "--csv", str(table),
    )  # fmt: skip
    labels = codes_on(pdf)
    assert len(set(labels)) == count
    assert sorted(labels) == sorted(row["url"] for row in csv.DictReader(table.read_text().splitlines()))

    def trade(numbered: tuple[int, str]) -> Credential:
        number, label = numbered
        return enrol(label, tmp_path / f"device-{number}.json")

    with ThreadPoolExecutor(4) as pool:
        credentials = list(pool.map(trade, enumerate(labels)))
    assert {found.device_id for found in credentials} == {f"shop-{number:03}" for number in range(1, count + 1)}
    assert len({found.token for found in credentials}) == count
    counts = fleet.api.call("POST", "/v1/pushes/forecast", 200, json={"target": {"tag": "store-7"}})
    assert counts["targeted"] == count
    for state, number in (("open", 0), ("used", count)):
        listed = fleet.api.call("GET", "/v1/invitations", 200, params={"state": state, "limit": "1000"})
        assert len(listed["items"]) == number
    with pytest.raises(EnrolmentFailed) as second:
        enrol(labels[0], tmp_path / "thief.json")
    assert second.value.code == "code_used"


def test_an_enrolled_device_gets_its_pushes(fleet: Server, tmp_path: Path) -> None:
    label = json.loads(run(fleet, "devices", "invite", "till-1", "--json"))["url"]
    arrived: list[Push] = []
    with Device.enrol(label, tmp_path / "till.json", journal=tmp_path / "till.db", on_push=arrived.append) as device:
        assert device.wait_connected(15)
        push_id = fleet.api.push("till-1", data={"n": 1})
        wait_for(lambda: [push.push_id for push in arrived] == [push_id], what="the push")
    with Device.enrol(None, tmp_path / "till.json", journal=tmp_path / "till.db") as device:
        assert device.wait_connected(15), "at the next start its credential is enough"


def test_listen_needs_a_code_and_no_key(fleet: Server, tmp_path: Path) -> None:
    label = json.loads(run(fleet, "devices", "invite", "till-2", "--json"))["url"]
    env = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "share")}
    command = ("listen", "--code", label, "--count", "1", "--json")
    for number in range(2):  # the second time with the token that it has kept
        push_id = fleet.api.push("till-2", data={"n": number}) if number else None
        with running(*command, env=env, cwd=tmp_path) as process:
            if push_id is None:
                wait_for(lambda: is_online(fleet, "till-2"), what="the device to connect")
                push_id = fleet.api.push("till-2", data={"n": number})
            assert json.loads(process.stdout.readline())["push_id"] == push_id
            assert process.wait(15) == 0


def is_online(server: Server, device_id: str) -> bool:
    answer = server.api.request("GET", f"/v1/devices/{device_id}")
    return answer.status_code == 200 and bool(answer.json()["online"])


def test_a_device_renews_a_token_that_ends(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--clock-speed", "200")
    answer = server.api.call("POST", "/v1/devices", 201, json={"device_id": "till-3", "token_days": 30})
    issued = time.monotonic()
    wait_for(lambda: time.monotonic() - issued > 0.4, what="a minute of the server's clock to pass")
    due = replace(Credential.of(answer, server.url, None), renew_at=time.time())
    due.save(tmp_path / "till.json")

    def kept() -> Credential:
        found = Credential.load(tmp_path / "till.json")
        assert found is not None, "there all the time"
        return found

    with Device.enrol(None, tmp_path / "till.json") as device:
        assert device.wait_connected(15)
        wait_for(lambda: kept().token != due.token, what="the new token")
    assert kept().renew_at is not None
    with Device.enrol(None, tmp_path / "till.json") as device:
        assert device.wait_connected(15), "with the new one"


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_a_code_outlives_a_kill(start_server: StartServer, name: Name, answered: bool) -> None:
    """A server that is killed before or after the answer; the device that asks again has a token, and is one device."""
    server = start_server()
    device_id = name()
    made = server.api.call("POST", "/v1/invitations", 201, json={"device_id": device_id})["invitations"][0]
    body = {"code": made["code"], "nonce": "n" * 43}
    if answered:
        server.api.call("POST", "/v1/enrol", 201, json=body)
    server.restart()
    answer: dict[str, Any] = server.api.call("POST", "/v1/enrol", 201, json=body)
    assert answer["device_id"] == device_id
    assert [item["device_id"] for item in server.api.items("/v1/devices")] == [device_id]
