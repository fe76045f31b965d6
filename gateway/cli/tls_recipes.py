"""Recipes for clients: lines to paste, with which they trust this fleet's server and prove who they are.

They are written for one server and one device, so that nothing is left to fill in but what only the reader knows (a
token). Tests run those of mosquitto_sub and paho-mqtt as they are printed.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

NSS_DATABASE = "sql:$HOME/.pki/nssdb"
"""The folder in which Chromium on Linux keeps what a person trusts."""


@dataclass(frozen=True)
class Server:
    """A server as devices reach it."""

    host: str
    mqtt_port: int
    http_port: int
    ca: Path


@dataclass(frozen=True)
class Identity:
    """A device as it connects: with a certificate, or with the token that only its owner knows."""

    client_id: str
    push_topic: str
    certificate: Path | None = None
    key: Path | None = None


def recipes(server: Server, device: Identity) -> list[tuple[str, str]]:
    """Client and lines, in this order: mosquitto_sub, paho-mqtt, a browser, an ESP32 twice."""
    return [
        ("mosquitto_sub", mosquitto_sub(server, device)),
        ("paho-mqtt (Python)", paho(server, device)),
        (
            "A browser (Chromium on Linux, certutil is in libnss3-tools; elsewhere: its settings)",
            browser(server, device),
        ),
        ("ESP32, ESP-IDF 5", esp_idf(server, device)),
        ("ESP32, Arduino", arduino(server, device)),
    ]


def curl(server: Server) -> str:
    return shlex.join(
        ["curl", "--cacert", str(server.ca), f"https://{_in_url(server.host)}:{server.http_port}/healthz"]
    )


def mosquitto_sub(server: Server, device: Identity) -> str:
    command = ["mosquitto_sub", "-h", server.host, "-p", str(server.mqtt_port), "--cafile", str(server.ca)]
    if device.certificate is not None:
        command += ["--cert", str(device.certificate), "--key", str(device.key)]
    command += ["-i", device.client_id]
    if device.certificate is None:
        command += ["-u", device.client_id, "-P", "TOKEN"]
    return shlex.join([*command, "-c", "-q", "1", "-t", device.push_topic])


def paho(server: Server, device: Identity) -> str:
    if device.certificate is None:
        prove = [f"client.tls_set({str(server.ca)!r})", f'client.username_pw_set("{device.client_id}", "TOKEN")']
    else:
        prove = [f"client.tls_set({str(server.ca)!r}, {str(device.certificate)!r}, {str(device.key)!r})"]
    return "\n".join([
        "import paho.mqtt.client as mqtt",
        f'client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "{device.client_id}", clean_session=False)',
        *prove,
        "def on_connect(client, userdata, flags, reason, properties):",
        "    print(reason, flush=True)",
        f'    client.subscribe("{device.push_topic}", qos=1)',
        "client.on_connect = on_connect",
        "client.on_message = lambda client, userdata, message: print(message.payload.decode(), flush=True)",
        f'client.connect("{server.host}", {server.mqtt_port})',
        "client.loop_forever()",
    ])  # fmt: skip


def trust_lines(ca: Path) -> list[str]:
    """Return the lines that let Chromium on Linux trust a CA."""
    return [
        "mkdir -p $HOME/.pki/nssdb",
        f"certutil -d {NSS_DATABASE} -A -t C,, -n fleetpush -i {shlex.quote(str(ca))}",
    ]


def browser(server: Server, device: Identity) -> str:
    lines = trust_lines(server.ca)
    if device.certificate is not None and device.key is not None:
        bundle = device.certificate.with_suffix(".p12")
        certificate, key, p12 = (shlex.quote(str(path)) for path in (device.certificate, device.key, bundle))
        lines += [
            f"openssl pkcs12 -export -in {certificate} -inkey {key} -out {p12} -passout pass:",
            f"pk12util -d {NSS_DATABASE} -i {p12} -W ''",
            "# the server asks for it on a listener of its own: --listen 'wss://0.0.0.0:8084/mqtt?certificates=ask'",
        ]
    return "\n".join([*lines, f"# then open https://{_in_url(server.host)}:{server.http_port}"])


def esp_idf(server: Server, device: Identity) -> str:
    own = device.certificate is not None
    prove = (
        "    .credentials.authentication = {.certificate = device_pem, .key = device_key},"
        if own
        else f'    .credentials.username = "{device.client_id}", .credentials.authentication.password = "TOKEN",'
    )
    return "\n".join([
        f"// {_contents(server, device)}",
        "esp_mqtt_client_config_t config = {",
        f'    .broker.address.uri = "mqtts://{_in_url(server.host)}:{server.mqtt_port}",',
        "    .broker.verification.certificate = ca_pem,",
        f'    .credentials.client_id = "{device.client_id}",',
        prove,
        "    .session.disable_clean_session = true,",
        "};",
    ])  # fmt: skip


def arduino(server: Server, device: Identity) -> str:
    own = ["net.setCertificate(device_pem);", "net.setPrivateKey(device_key);"] if device.certificate else []
    return "\n".join([
        f"// {_contents(server, device)}; an MQTT library that takes a Client takes `net`",
        "WiFiClientSecure net;",
        "net.setCACert(ca_pem);",
        *own,
    ])  # fmt: skip


def _contents(server: Server, device: Identity) -> str:
    """Return the contents of a firmware's constants."""
    held = {"ca_pem": server.ca, "device_pem": device.certificate, "device_key": device.key}
    return ", ".join(f"{name}: the text of {path.name}" for name, path in held.items() if path is not None)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
