"""`fleetpush-health DATA_DIR`: does the server of a data directory accept pushes? For health checks of containers.

Asks `/readyz` of the server that `server.json` names. Exit code 0: it does; 1: it does not, and a line says why. It is
called every few seconds for years: so it imports nothing of others, and takes a twentieth of what any command takes.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from gateway.data_directory import SERVER_FILE

TIMEOUT_SECONDS = 4.0
"""Seconds for the connection, and for the answer; less than what a health check is given."""
USAGE = "fleetpush-health DATA_DIR: exit code 0 if the server of this data directory accepts pushes, else 1"


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(USAGE)
    complaint = examine(Path(sys.argv[1]))
    sys.exit(None if complaint is None else f"fleetpush: {complaint}")


def examine(data_dir: Path) -> str | None:
    """Return why the server of a data directory accepts no pushes; None if it does."""
    file = data_dir / SERVER_FILE
    try:
        parts = urlsplit(str(json.loads(file.read_text())["url"]))
        host, port = parts.hostname, parts.port
        if not host or not port:
            raise ValueError("no address of a server")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no server has announced itself in {file} ({type(error).__name__})"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    if parts.scheme == "https":
        # Nothing is confided to whoever answers on this machine, and the certificate has the name of the public host.
        connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_SECONDS, context=ssl._create_unverified_context()
        )
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(1_000)
    except (OSError, http.client.HTTPException) as error:
        return f"{parts.netloc} does not answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"answered {answer.status}: {body.decode(errors='replace')}"


if __name__ == "__main__":
    main()
