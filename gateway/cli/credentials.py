"""A device's credential as the terminal shows it, once: with two lines that make a whole device of any shell."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any

from gateway.cli.server_client import EVERY_ADDRESS, ServerClient
from gateway.cli.terminal import note, print_facts, print_json


def print_credential(client: ServerClient, answer: dict[str, Any], as_json: bool) -> None:
    """A device's credential with two lines that make a whole device of any shell."""
    if as_json:
        print_json(answer)
        return
    mqtt = answer["mqtt"]
    topics = mqtt["topics"]
    who = [
        "-h",
        dialled(client, mqtt["host"]),
        "-p",
        str(mqtt["port"]),
        *(trust_options(client) if mqtt["tls"] else ()),
    ]
    secret = ["-u", mqtt["username"], "-P", answer["token"]]
    subscribe = ["mosquitto_sub", *who, "-i", mqtt["client_id"], *secret, "-c", "-q", "1", "-t", topics["push"]]
    receipt = ["mosquitto_pub", *who, "-i", mqtt["client_id"] + ":r", *secret, "-q", "1", "-t", topics["receipts"]]
    opened = json.dumps({"push_id": "PUSH_ID", "event": "opened"})
    print_facts({"device": answer["device_id"], "token": answer["token"]})
    note("The token is shown this once.")
    print("\nReceive its pushes from a shell:")
    print("  " + shlex.join(subscribe))
    print("\nSend a receipt for one of them:")
    print("  " + shlex.join([*receipt, "-m", opened]))


def dialled(client: ServerClient, host: str) -> str:
    """A name that the server's certificate has, where the server itself does not know how it is dialled."""
    if client.certificate is not None and host in EVERY_ADDRESS:
        from gateway.certificates import CertificateError, certificate_facts

        try:
            names = certificate_facts(client.certificate).names
        except CertificateError:
            names = ()
        host = next((name for name in names if not name.startswith("*")), host)
    return client.reachable_host(host)


def trust_options(client: ServerClient) -> list[str]:
    """Return the options that let mosquitto's clients trust the server. That is by the fleet's CA, what this command
    trusts, or what everybody does."""
    if client.fleet_ca is not None:
        return ["--cafile", str(client.fleet_ca)]
    authority = os.environ.get("FLEETPUSH_CA")
    return ["--cafile", authority] if authority else ["--tls-use-os-certs"]
