"""`fleetpush tls`: what it makes and says, and that what it prints to paste works as pasted."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import split
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.auth import credential_generation
from gateway.certificates import certificate_facts, device_files, require_matching_key
from gateway.cli import app
from gateway.cli.tls_recipes import Identity, Server, esp_idf
from tests.gateway.in_process import InProcessGateway
from tests.third_party import Listener, require

READS_THE_FILE = pytest.mark.sqlite("the other is in end_to_end/test_tls")


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("FLEETPUSH_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A server's data directory while the server runs."""
    folder = tmp_path / "data"
    folder.mkdir()
    gateway = await InProcessGateway.build(folder, asyncio.get_running_loop())
    yield gateway
    await gateway.close()


def run(*arguments: str, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, ["tls", *arguments])
    assert result.exit_code == expect, result.output
    return result


def json_of(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def pasted(output: str, client: str) -> str:
    """The lines printed for a client."""
    after = output.split(f"\n{client}:\n")[1]
    return textwrap.dedent(after.split("\n\n")[0])


# -- init --------------------------------------------------------------------------------------------------------------


def test_one_command_makes_everything_a_server_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPUSH_PUBLIC_HOST", "push.example")
    made = json_of("init", "--name", "192.0.2.99", "--name", "Kiosk-Net.example")
    names = made["server"]["names"]
    assert names[:3] == ["push.example", "192.0.2.99", "kiosk-net.example"], "what was said comes first"
    assert {"localhost", "127.0.0.1", "::1", socket.gethostname().lower()} <= set(names)
    assert made["ca"]["made"]
    assert made["server"]["days_left"] == pytest.approx(825, abs=0.1)
    tls = Path("fleetpush-data/tls")
    assert sorted(path.name for path in tls.iterdir()) == ["ca.key", "ca.pem", "server.key", "server.pem"]
    require_matching_key(tls / "server.pem", tls / "server.key")


def test_it_says_how_to_serve_and_how_each_client_trusts_it() -> None:
    output = run("init", "--data-dir", "d", "--name", "*.fleet.example", "--name", "push.example").stdout
    assert "fleetpush serve --data-dir d --bind 0.0.0.0 --public-host push.example" in output
    assert "certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n fleetpush -i d/tls/ca.pem" in output
    assert "# then open https://push.example:8080" in output
    assert '"mqtts://push.example:1883"' in output
    assert "net.setCACert(ca_pem);" in output
    assert "curl --cacert d/tls/ca.pem https://push.example:8080/healthz" in output
    assert "PRIVATE KEY" not in output


def test_a_second_time_renews_and_a_new_ca_says_what_it_means() -> None:
    first = json_of("init")
    renewal = run("init", "--days", "30")
    assert "(kept)" in renewal.stdout
    assert "The CA is the same" in renewal.stderr
    renewed = json_of("show")["items"]
    assert [item["sha256"] == first[name]["sha256"] for item, name in zip(renewed, ("ca", "server"), strict=True)] == [
        True,
        False,
    ]
    replaced = run("init", "--new-ca")
    assert "(new)" in replaced.stdout
    assert "another CA" in replaced.stderr
    (aside,) = Path("fleetpush-data/tls").glob("before-*")
    assert str(aside) in replaced.stderr
    assert certificate_facts(aside / "ca.pem").fingerprint == first["ca"]["sha256"]


def test_a_renewal_that_names_nothing_still_says_to_dial_what_was_named() -> None:
    run("init", "--name", "push.example")
    renewed = run("init").stdout
    assert "mosquitto_sub -h push.example " in renewed
    assert "--public-host push.example" in renewed
    assert json_of("show")["items"][1]["names"][0] == "push.example"
    assert "mosquitto_sub -h new.example " in run("init", "--name", "new.example").stdout


def test_a_certificate_from_elsewhere_stays_unless_forced() -> None:
    json_of("init", "--data-dir", "theirs")
    Path("fleetpush-data/tls").mkdir(parents=True)
    own = Path(shutil.copy("theirs/tls/server.pem", "fleetpush-data/tls/server.pem"))
    before = own.read_text()
    refusal = run("init", expect=1)
    assert "--force" in refusal.stderr
    assert own.read_text() == before
    assert json_of("init", "--force")["set_aside"] is not None
    assert own.read_text() != before


@pytest.mark.parametrize(
    ("options", "code"), [(["--name", "https://push.example"], 1), (["--days", "826"], 2), (["--days", "0"], 2)]
)
def test_wrong_use_makes_nothing(options: list[str], code: int) -> None:
    run("init", *options, expect=code)
    assert not Path("fleetpush-data").exists()


def test_a_running_server_is_told_by_the_command_that_is_printed() -> None:
    run("init")
    announced = Path("fleetpush-data/server.json")
    announced.write_text(json.dumps({"url": "https://h:1", "pid": os.getpid(), "http_port": 4711, "mqtt_port": 4712}))
    output = run("init").stdout
    assert f"    kill -HUP {os.getpid()}\n" in output
    assert "-p 4712 " in output, "the ports are those of the server that runs"
    assert "https://localhost:4711" in run("init", "--name", "localhost").stdout
    announced.write_text(json.dumps({"url": "http://h:1", "pid": os.getpid(), "http_port": 4711, "mqtt_port": 4712}))
    output = run("init").stdout
    assert "kill -HUP" not in output, "a server without TLS does not expect the signal"
    assert "Stop it and start it again" in output
    gone = subprocess.Popen(["true"])
    gone.wait()
    announced.write_text(json.dumps({"url": "https://h:1", "pid": gone.pid}))
    assert json_of("init")["reload"] is None


# -- device ------------------------------------------------------------------------------------------------------------


@READS_THE_FILE
async def test_a_device_gets_a_certificate_of_its_credential(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    run("init", "--data-dir", "data")
    made = json_of("device", "kiosk-1", "--data-dir", "data", "--days", "90")
    assert made["device"]["subject"] == "kiosk-1"
    assert made["device"]["days_left"] == pytest.approx(90, abs=0.1)
    certificate, key = device_files(Path("data"), "kiosk-1")
    assert (made["device"]["certificate"], made["device"]["key"]) == (str(certificate), str(key))
    first = subject_of(certificate)
    await gateway.call("POST", "/v1/devices/kiosk-1/token")
    run("device", "kiosk-1", "--data-dir", "data")
    assert subject_of(certificate) != first, "a new token is a new generation"
    (token_hash,) = await gateway.database.read(
        lambda database: database.execute("SELECT token_hash FROM device").fetchone()
    )
    assert subject_of(certificate) == f"serialNumber={credential_generation(token_hash)},CN=kiosk-1"


@READS_THE_FILE
async def test_a_device_of_another_application(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "shop"})
    shop = await gateway.key_for("devices", app="shop")
    await gateway.call("POST", "/v1/devices", 201, http=shop, json={"device_id": "till-1"})
    run("init", "--data-dir", "data")
    output = run("device", "till-1", "--app", "shop", "--data-dir", "data").stdout
    assert "-i shop/till-1 -c -q 1 -t shop/devices/till-1/push" in output
    assert Path("data/tls/devices/shop.till-1.key").exists()
    assert "application 'shop'" in run("device", "kiosk-9", "--app", "shop", "--data-dir", "data", expect=1).stderr


@READS_THE_FILE
async def test_only_an_enrolled_device_gets_one(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    run("init", "--data-dir", "data")
    await gateway.call("DELETE", "/v1/devices/kiosk-1", 204)
    for device_id in ("kiosk-1", "kiosk-2"):
        refusal = run("device", device_id, "--data-dir", "data", expect=1)
        assert f"fleetpush devices add {device_id}" in refusal.stderr
    assert not Path("data/tls/devices").exists()


@READS_THE_FILE
async def test_a_device_certificate_needs_a_server_and_a_ca(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    assert "fleetpush tls init" in run("device", "kiosk-1", "--data-dir", "data", expect=1).stderr
    assert "--data-dir" in run("device", "kiosk-1", "--data-dir", "elsewhere", expect=1).stderr


def subject_of(certificate: Path) -> str:
    command = [require("openssl"), "x509", "-in", str(certificate), "-noout", "-subject", "-nameopt", "RFC2253"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().removeprefix("subject=")


# -- show --------------------------------------------------------------------------------------------------------------


@READS_THE_FILE
async def test_all_certificates_are_shown_with_their_days(gateway: InProcessGateway) -> None:
    assert "fleetpush tls init" in run("show", "--data-dir", "data").stderr
    await gateway.enrol("kiosk-1")
    run("init", "--data-dir", "data", "--name", "push.example")
    run("device", "kiosk-1", "--data-dir", "data")
    rows = [line.split("\t") for line in run("show", "--data-dir", "data").stdout.splitlines()]
    assert [row[0] for row in rows[1:]] == ["ca.pem", "server.pem", "devices/kiosk-1.pem"]
    assert [row[2] for row in rows[2:]] == ["824", "824"]
    assert rows[2][4].startswith("push.example, ")
    Path("data/tls/server.pem").write_text("broken")
    assert "holds no certificate" in run("show", "--data-dir", "data", expect=1).stderr


# -- as pasted ---------------------------------------------------------------------------------------------------------

MESSAGE = '{"v": 1, "push_id": "p1"}'


@contextmanager
def mosquitto(folder: Path, port: int, *lines: str) -> Iterator[None]:
    """The other broker, on the certificates made here, with a retained push waiting for kiosk-1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        plain = free.getsockname()[1]
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        "user root\n"  # if we are: the default user could not read this directory
        f"per_listener_settings true\nlistener {plain} 127.0.0.1\nallow_anonymous true\nlistener {port} 127.0.0.1\n"
        "certfile data/tls/server.pem\nkeyfile data/tls/server.key\n" + "".join(f"{line}\n" for line in lines)
    )
    command = [require("mosquitto"), "-c", str(configuration)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None, "opened as a pipe"
            # What it logs after this line fits into the pipe.
            log: list[str] = []
            while not (log and "running" in log[-1]):
                log.append(process.stderr.readline())
                assert log[-1], f"it ended: {''.join(log)}"
            publish = [require("mosquitto_pub"), "-p", str(plain), "-q", "1", "-r", "-m", MESSAGE]
            subprocess.run([*publish, "-t", "default/devices/kiosk-1/push"], check=True, timeout=15)
            yield
        finally:
            process.terminate()


def hear(command: list[str]) -> list[str]:
    """What a client prints until the push is among it."""
    lines: list[str] = []
    heard = threading.Event()

    def on_line(line: str) -> None:
        lines.append(line)
        if line == MESSAGE:
            heard.set()

    with Listener(command, on_line):
        assert heard.wait(15), lines
    return lines


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    monkeypatch.setenv("FLEETPUSH_MQTT_PORT", str(number))
    monkeypatch.setenv("FLEETPUSH_PUBLIC_HOST", "localhost")
    return number


def test_with_the_ca_mosquitto_sub_and_paho_trust_the_server(tmp_path: Path, port: int) -> None:
    output = run("init", "--data-dir", "data").stdout.replace("ID", "kiosk-1")
    with mosquitto(tmp_path, port, "allow_anonymous true"):
        hear([require("mosquitto_sub"), *split(pasted(output, "mosquitto_sub"))[1:]])
        assert hear([sys.executable, "-c", pasted(output, "paho-mqtt (Python)")]) == ["Success", MESSAGE]
        run("init", "--data-dir", "data", "--new-ca")
        distrusted = subprocess.run(
            split(pasted(output, "mosquitto_sub")), capture_output=True, text=True, timeout=15, check=False
        )
        assert distrusted.returncode != 0, "trusting another CA"


@READS_THE_FILE
async def test_with_its_certificate_a_device_needs_no_password(
    tmp_path: Path, gateway: InProcessGateway, port: int
) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    run("init", "--data-dir", "data")
    output = run("device", "kiosk-1", "--data-dir", "data").stdout
    (tmp_path / "acl").write_text("pattern read +/devices/%u/push\n")  # %u is the certificate's common name
    certificates = ("cafile data/tls/ca.pem", "require_certificate true", "use_identity_as_username true")
    with mosquitto(tmp_path, port, *certificates, "acl_file acl"):
        hear([require("mosquitto_sub"), *split(pasted(output, "mosquitto_sub"))[1:]])
        assert hear([sys.executable, "-c", pasted(output, "paho-mqtt (Python)")]) == ["Success", MESSAGE]


@pytest.mark.parametrize("identity", [
    Identity("kiosk-1", "t"), Identity("kiosk-1", "t", Path("kiosk-1.pem"), Path("kiosk-1.key"))
])  # fmt: skip
def test_the_lines_for_esp_idf_are_c(tmp_path: Path, identity: Identity) -> None:
    """The structure is that of ESP-IDF 5 (mqtt_client.h), as far as the lines name it."""
    source = tmp_path / "config.c"
    source.write_text(
        "#include <stdbool.h>\n"
        "typedef struct {\n"
        "  struct { struct { const char *uri; } address; struct { const char *certificate; } verification; } broker;\n"
        "  struct { const char *username, *client_id;\n"
        "           struct { const char *password, *certificate, *key; } authentication; } credentials;\n"
        "  struct { bool disable_clean_session; } session;\n"
        "} esp_mqtt_client_config_t;\n"
        "const char *ca_pem, *device_pem, *device_key;\n"
        "esp_mqtt_client_config_t f(void) {\n"
        + esp_idf(Server("push.example", 1883, 8080, Path("ca.pem")), identity)
        + "\nreturn config; }\n"
    )
    subprocess.run([require("cc"), "-Wall", "-Werror", "-fsyntax-only", str(source)], check=True, timeout=60)
