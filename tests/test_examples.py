"""The programs in `examples/` do what they say, against a real server.

Of those that need an environment of their own, what can be had here is checked. The code in the flows of Node-RED and
n8n runs in node, with as much around it as it names. The C of the ESP32 is compiled against declarations of ESP-IDF.
Kotlin is only read, since its compiler is not in Debian: that it names what the device contract names.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from standardwebhooks import Webhook

from gateway.delivery_states import DeliveryState
from gateway.device_topics import LEAVES
from tests.documents.markdown import blocks
from tests.end_to_end.harness import ROOT, Server, clean_environment, fleetpush, wait_for
from tests.third_party import require

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FUNCTION_NODES = """
const flow = JSON.parse(require("fs").readFileSync(process.argv[2]));
const code = (id, part) => flow.find((node) => node.id === id)[part];
const env = { get: (name) => process.env[name] };
const kept = {};
const context = { get: (name) => kept[name], set: (name, value) => { kept[name] = value; } };
const node = { status: (found) => console.error(found.text), send: (msg) => console.log(JSON.stringify(msg)) };
const run = (text, names, values) => new Function(...names, text)(...values);
const http = require("http"), https = require("https");
const given = { node, env, context, http, https };
run(code("fleetpush-events", "initialize"), Object.keys(given), Object.values(given));
require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
    const msg = run(code("fleetpush-push", "func"), ["msg", "env"], [{ _msgid: "m1", payload: line }, env]);
    const answer = await fetch(msg.url, { method: "POST", headers: msg.headers, body: JSON.stringify(msg.payload) });
    console.log(JSON.stringify({ topic: String(answer.status), payload: await answer.json() }));
}).on("close", () => run(code("fleetpush-events", "finalize"), ["context"], [context]));
"""
"""As much of Node-RED as the flow's function nodes use."""
CODE_NODE = """
const [code, headers, body] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const AsyncFunction = (async () => {}).constructor;
const $input = { first: () => ({ json: { headers } }) };
const helpers = { getBinaryDataBuffer: async () => Buffer.from(body, "base64") };
new AsyncFunction("$input", "$env", "require", code).call({ helpers }, $input, process.env, require)
    .then((items) => console.log(JSON.stringify(items)));
"""
"""As much of n8n as the workflow's code node uses."""
ESP_IDF_HEADERS = (
    "cJSON", "esp_app_desc", "esp_event", "esp_log", "esp_netif", "esp_random", "esp_system", "esp_wifi",
    "freertos/FreeRTOS", "freertos/event_groups", "freertos/task", "mqtt_client", "nvs", "nvs_flash",
)  # fmt: skip


class Program:
    """An example that runs until it is told to end; `output` is what it has printed."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean_environment(**environment),
                stdin=subprocess.PIPE,
                stdout=output,
                start_new_session=True,  # its own group: a shell has children
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(10)

    @property
    def output(self) -> str:
        return self._output.read_text()

    def type(self, line: str) -> None:
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def end(self) -> int:
        """End its input, and wait for its end; the exit code."""
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.close()
        return self._process.wait(10)

    def wait_output(self, text: str) -> None:
        wait_for(lambda: text in self.output, what=f"the program to print {text!r}")


def python(name: str) -> tuple[str, str]:
    return sys.executable, str(EXAMPLES / name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"FLEETPUSH_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    with Server(tmp_path_factory.mktemp("examples") / "data", env=environment) as server:
        yield server


def test_the_kiosk_shows_has_a_button_and_obeys(server: Server, tmp_path: Path) -> None:
    enrolled = server.api.call("POST", "/v1/devices", 201, json={"device_id": "kiosk-1"})
    (tmp_path / "kiosk-1.json").write_text(json.dumps(enrolled))
    notification = {"title": "Fresh bread", "body": "From 4 p.m.", "actions": [{"id": "play", "title": "Play"}]}
    push_id = server.api.push("kiosk-1", notification=notification)
    with Program(tmp_path, *python("kiosk.py"), "kiosk-1.json") as kiosk:
        kiosk.wait_output("Fresh bread")
        server.api.wait_counts(push_id, displayed=1)
        kiosk.type("play")
        server.api.wait_counts(push_id, acted=1)
        command = server.api.push("kiosk-1", kind="command", data={"command": "volume", "percent": 140})
        server.api.wait_counts(command, acted=1)
        silent = server.api.push("kiosk-1", kind="silent", data={"prices": [1, 2]})
        server.api.wait_counts(silent, delivered=1)
        assert kiosk.end() == 0
    assert server.api.delivery(push_id)["result"] == {"state": "playing"}
    assert server.api.delivery(command)["result"] == {"percent": 100}
    assert server.api.device("kiosk-1")["attributes"] == {"program": "kiosk.py"}
    assert kiosk.output.splitlines() == ["Fresh bread: From 4 p.m.", "{'state': 'playing'}"]


def test_the_shell_device_takes_pushes_and_sends_receipts(server: Server, tmp_path: Path) -> None:
    for program in ("mosquitto_sub", "mosquitto_pub", "stdbuf"):
        require(program)
    device = server.api.enrol("sign-1")
    push_ids = [server.api.push("sign-1", notification={"title": title}) for title in ("One", "Two")]
    script = ("sh", str(EXAMPLES / "shell_device.sh"), device.id, device.token, "127.0.0.1", str(server.mqtt_port))
    with Program(tmp_path, *script) as shell:
        for push_id in push_ids:
            server.api.wait_counts(push_id, displayed=1)
    assert [json.loads(line)["push_id"] for line in shell.output.splitlines()] == push_ids


def test_the_shell_device_and_the_sender_speak_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    require("mosquitto_sub")
    data_dir = tmp_path / "data"
    made = fleetpush("tls", "init", "--data-dir", str(data_dir), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    ca = data_dir / "tls" / "ca.pem"
    with Server(data_dir, ca=ca) as server:
        device = server.api.enrol("sign-1")
        environment = clean_environment(FLEETPUSH_URL=server.url, FLEETPUSH_KEY=server.admin_key)
        command = [*python("sender.py"), device.id, "order-1", "Ready"]
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert refused.returncode == 1
        assert "SSL_CERT_FILE" in refused.stderr
        script = ("sh", str(EXAMPLES / "shell_device.sh"), device.id, device.token, "localhost", str(server.mqtt_port))
        with Program(tmp_path, *script, CAFILE=str(ca)) as shell:
            trusting = environment | {"SSL_CERT_FILE": str(ca)}
            subprocess.run(command, env=trusting, capture_output=True, check=True, timeout=30)
            shell.wait_output("Ready")


def test_the_sender_sends_once_and_waits_for_the_outcome(server: Server, tmp_path: Path) -> None:
    device = server.api.enrol("kiosk-2")
    environment = clean_environment(FLEETPUSH_URL=server.url, FLEETPUSH_KEY=server.admin_key)
    command = [*python("sender.py"), device.id, "order-4711", "Your order is ready"]

    def run() -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout

    enrolled = {"device_id": device.id, "token": device.token, "mqtt": device.mqtt}
    (tmp_path / "kiosk-2.json").write_text(json.dumps(enrolled))
    with Program(tmp_path, *python("kiosk.py"), "kiosk-2.json") as kiosk:
        server.api.wait_online(device.id)
        first = run()
        accepted = re.fullmatch(r"accepted as ([\w-]+)\nkiosk-2: (delivered|displayed)\n", first)
        assert accepted, first
        server.api.wait_counts(accepted[1], displayed=1)
        second = run()
    assert second == f"accepted as {accepted[1]}\nkiosk-2: displayed\n", "the same order is the same push"
    assert kiosk.output == "Your order is ready\n"
    refused = subprocess.run([*command[:2], "nobody", "order-1", "Hi"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert json.loads(refused.stderr)["code"] == "device_not_found"


def test_the_webhook_receiver_books_what_the_server_tells_and_nobody_else(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    webhook = server.api.call("POST", "/v1/webhooks", 201, json={"url": url, "types": ["delivery.cancelled"]})
    secret = webhook["secret"]
    server.api.enrol("kiosk-3")
    with Program(tmp_path, *python("webhook_receiver.py"), str(port), WEBHOOK_SECRET=secret) as receiver:
        receiver.wait_output("listening on ")
        push_id = server.api.push("kiosk-3")
        server.api.call("DELETE", f"/v1/pushes/{push_id}", 200)
        receiver.wait_output(push_id)

        def post(body: str, at: datetime, signature: str) -> int:
            stamp = str(int(at.timestamp()))
            headers = {"webhook-id": "one", "webhook-timestamp": stamp, "webhook-signature": signature}
            return httpx2.post(url, content=body, headers=headers, trust_env=False).status_code

        signer, now = Webhook(secret), datetime.now(UTC)
        event = {"id": "9.0", "type": "delivery.cancelled", "timestamp": "2026-12-01T08:30:04.917Z", "data": {}}
        again = json.dumps({"type": "events", "data": {"events": [event, event]}})
        assert post(again, now, "v1,bm9ib2R5") == 401
        long_ago = now - timedelta(hours=1)
        assert post(again, long_ago, signer.sign("one", long_ago, again)) == 401
        assert post(again, now, f"v1,bm9ib2R5 {signer.sign('one', now, again)}") == 204
    lines = receiver.output.splitlines()[1:]
    assert [line.split(" ", 1)[0] for line in lines] == ["delivery.cancelled"] * 2
    assert json.loads(lines[0].split(" ", 1)[1])["push_id"] == push_id


# Flows and workflows


def test_the_node_red_flow_can_be_imported() -> None:
    flow = json.loads((EXAMPLES / "node_red" / "flow.json").read_text())
    nodes = {node["id"]: node for node in flow}
    assert len(nodes) == len(flow)
    assert {node["type"] for node in flow} <= {"tab", "inject", "function", "http request", "switch", "debug"}, "core"
    (tab,) = (node["id"] for node in flow if node["type"] == "tab")
    for node in flow:
        if node["id"] == tab:
            continue
        assert node["z"] == tab
        assert all(target in nodes for targets in node["wires"] for target in targets)
        if node["type"] in ("function", "switch"):
            assert len(node["wires"]) == node["outputs"]


def test_the_node_red_flow_pushes_and_follows_over_a_restart(tmp_path: Path) -> None:
    require("node")
    (tmp_path / "run.js").write_text(FUNCTION_NODES)
    flow = str(EXAMPLES / "node_red" / "flow.json")
    with Server(tmp_path / "data") as server:
        device = server.api.enrol("kiosk-1")
        enrolled = {"device_id": device.id, "token": device.token, "mqtt": device.mqtt}
        (tmp_path / "kiosk-1.json").write_text(json.dumps(enrolled))
        (tmp_path / "kiosk").mkdir()
        environment = {"FLEETPUSH_URL": server.url, "FLEETPUSH_KEY": server.admin_key}
        with (
            Program(tmp_path, "node", "run.js", flow, **environment) as node_red,
            Program(tmp_path / "kiosk", *python("kiosk.py"), str(tmp_path / "kiosk-1.json")) as kiosk,
        ):
            node_red.wait_output('"device.connected"')
            server.restart()  # it has an id by now, and misses nothing
            node_red.type("Fresh bread")
            node_red.wait_output('"202"')
            kiosk.wait_output("Fresh bread")
            kiosk.type("open")
            node_red.wait_output('"delivery.acted"')
            node_red.type("Fresh bread")
            wait_for(lambda: node_red.output.count('"202"') == 2, what="the second answer")
            assert node_red.end() == 0
    told = [json.loads(line) for line in node_red.output.splitlines()]
    (acted,) = (line["payload"]["data"] for line in told if line["topic"] == "delivery.acted")
    answers = [line["payload"]["push_id"] for line in told if line["topic"] == "202"]
    assert (acted["action"], answers) == ("open", [acted["push_id"]] * 2), "a message that comes again is one push"


def test_the_n8n_workflow_can_be_imported() -> None:
    workflow = json.loads((EXAMPLES / "n8n" / "workflow.json").read_text())
    names = {node["name"] for node in workflow["nodes"]}
    assert len(names) == len({node["id"] for node in workflow["nodes"]}) == len(workflow["nodes"])
    assert workflow["connections"].keys() <= names
    outputs = [targets for found in workflow["connections"].values() for targets in found["main"]]
    assert {target["node"] for targets in outputs for target in targets} == names - {"Webhook"}
    (webhook,) = (node for node in workflow["nodes"] if node["type"] == "n8n-nodes-base.webhook")
    assert webhook["parameters"]["options"]["rawBody"] is True, "the signature is that of the bytes"
    assert webhook["parameters"]["responseMode"] == "responseNode"


def test_the_n8n_workflow_believes_a_signature_and_nothing_else() -> None:
    node = require("node")
    workflow = json.loads((EXAMPLES / "n8n" / "workflow.json").read_text())
    (code,) = (found["parameters"]["jsCode"] for found in workflow["nodes"] if found["type"] == "n8n-nodes-base.code")
    secret = "whsec_" + base64.b64encode(b"sixteen bytes ..").decode()
    signer, now = Webhook(secret), datetime.now(UTC)
    body = json.dumps({"type": "events", "data": {"events": [{"id": "9.0", "data": {"title": "é"}}]}})

    def said(body: str, at: datetime, signature: str) -> dict[str, Any]:
        stamp = str(int(at.timestamp()))
        headers = {"webhook-id": "one", "webhook-timestamp": stamp, "webhook-signature": signature}
        given = json.dumps([code, headers, base64.b64encode(body.encode()).decode()])
        environment = clean_environment() | {"FLEETPUSH_WEBHOOK_SECRET": secret}
        command = [node, "-e", CODE_NODE]
        done = subprocess.run(command, input=given, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        (item,) = json.loads(done.stdout)
        found: dict[str, Any] = item["json"]
        return found

    genuine = said(body, now, f"v1,bm9ib2R5 {signer.sign('one', now, body)}")
    assert (genuine["genuine"], genuine["data"]["events"][0]["id"]) == (True, "9.0")
    long_ago = now - timedelta(hours=1)
    assert said(body, long_ago, signer.sign("one", long_ago, body)) == {"genuine": False}
    assert said(body + " ", now, signer.sign("one", now, body)) == {"genuine": False}
    assert said("no JSON", now, "") == {"genuine": False}


# Devices in other languages


def contract_fields() -> set[str]:
    """The fields of a push, of its notification and of an action, as the device contract shows them."""
    (push,) = (b for b in blocks(ROOT / "docs" / "device-contract.md") if (b.language, b.mark) == ("json", "push"))
    return {*re.findall(r'"(\w+)":', push.text), "body"}


@pytest.mark.parametrize(
    ("file", "topic", "event", "field"),
    [
        (
            "android/PushService.kt",
            r'(?:topic \+ |say\()"(\w+)"',
            r'receipt\(pushId, (?:if \(action == null\) "\w+" else )?"(\w+)"',
            r'\b(?:push|notification|action)\.(?:get|opt|has)\w*\("(\w+)"',
        ),
        (
            "esp32/main/main.c",
            r'TOPIC\("(\w+)"\)',
            r'send_receipt\(push_id, "(\w+)"',
            r'CaseSensitive\((?:push|notification), "(\w+)"',
        ),
    ],
)
def test_a_device_names_what_the_contract_names(file: str, topic: str, event: str, field: str) -> None:
    text = (EXAMPLES / file).read_text()
    assert {"push", "receipts", "report"} <= {*re.findall(topic, text)} <= {*LEAVES}
    events = {*re.findall(event, text)}
    assert {"displayed", "acted"} <= events <= {state.label for state in DeliveryState}
    assert {"push_id", "kind", "notification", "data", "title"} <= {*re.findall(field, text)} <= contract_fields()
    for said in ("interrupted", "unknown command", '"push_id"', '"event"', '"result"', '"error"', '"commands"'):
        assert said in text
    assert re.search("3_1_1", text), "neither falls back to 3.1"


def test_the_android_device_fits_into_one_file() -> None:
    text = (EXAMPLES / "android" / "PushService.kt").read_text()
    assert len(text.splitlines()) < 300
    assert max(map(len, text.splitlines())) <= 120
    assert (text.count("{"), text.count("(")) == (text.count("}"), text.count(")"))
    for duty in ("isCleanSession = false", "setManualAcks(true)", "isAutomaticReconnect = false", "Random.nextLong"):
        assert duty in text
    for note in ("Doze", "specialUse", "setExactAndAllowWhileIdle", "REQUEST_IGNORE_BATTERY_OPTIMIZATIONS"):
        assert note in text


def test_the_esp32_device_compiles(tmp_path: Path) -> None:
    for name in ESP_IDF_HEADERS:
        header = tmp_path / f"{name}.h"
        header.parent.mkdir(exist_ok=True)
        header.write_text('#include "esp_idf_stubs.h"\n')
    project = EXAMPLES / "esp32"
    strict = ["-std=gnu17", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    command = [require("cc"), *strict, f"-I{ROOT / 'tests'}", f"-I{tmp_path}", str(project / "main" / "main.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"main.c"' in (project / "main" / "CMakeLists.txt").read_text()
    assert "project(" in (project / "CMakeLists.txt").read_text()
