"""An application that is told what became of its pushes: an HTTP server that takes webhooks and verifies them.

    fleetpush webhooks add http://127.0.0.1:9000/ --type 'delivery.*'     # prints the secret, once
    WEBHOOK_SECRET=whsec_... python3 webhook_receiver.py 9000

Requests are Standard Webhooks (standardwebhooks.com). To a private address the server sends only if the setting
`webhook_networks` allows it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
TOLERANCE_SECONDS = 300
"""A request that is older may be one that somebody has recorded and sends again."""
MAX_BODY_BYTES = 4 * 1024 * 1024

seen: set[str] = set()
"""Ids of the events that were booked. A real application writes both in one transaction, to one place."""
lock = Lock()


def is_genuine(message_id: str, timestamp: str, signatures: str, body: bytes) -> bool:
    """True for a request that the holder of the secret has made just now."""
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
    # Several while a secret is being replaced. `compare_digest` takes the same time wherever they differ.
    return any(hmac.compare_digest(one.encode(), f"v1,{expected}".encode()) for one in signatures.split(" "))


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 when the events are booked: whatever else it answers, the server sends them again."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        message_id, timestamp = self.headers.get("webhook-id", ""), self.headers.get("webhook-timestamp", "")
        if not is_genuine(message_id, timestamp, self.headers.get("webhook-signature", ""), body):
            return self.answer(401)
        with lock:
            for event in json.loads(body)["data"]["events"]:
                if event["id"] not in seen:  # at least once: it may come again
                    print(event["type"], json.dumps(event["data"]), flush=True)
                    seen.add(event["id"])
        return self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver) as server:
    print(f"listening on {server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
