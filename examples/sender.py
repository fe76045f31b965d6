"""An application that sends a push once, whatever happens to its request, and waits for what becomes of it.

    FLEETPUSH_URL=http://127.0.0.1:8080 FLEETPUSH_KEY=key_... python3 sender.py kiosk-1 order-4711 'Your order is ready'

The key needs the scopes send and read.

Nothing to install: the API is JSON over HTTP. `/docs` of your server describes it, `/openapi.json` makes a client.
"""

from __future__ import annotations

import json
import os
import sys
import time
from ssl import SSLCertVerificationError
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = os.environ.get("FLEETPUSH_URL", "http://127.0.0.1:8080")
KEY = os.environ["FLEETPUSH_KEY"]
TTL_SECONDS = 600
"""For so long the push is worth delivering. Afterwards the device is spared, and the push ends `expired`."""
ATTEMPTS = 10
WORTH_REPEATING = (429, 500, 502, 503, 504, 507)
"""Answers that say nothing about the push itself: too many requests, a server that restarts, a full disk."""


def request(method: str, path: str, body: object = None, idempotency_key: str = "") -> dict[str, Any]:
    """The server's answer; repeated while there is none, or the server says that repeating helps."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    if idempotency_key:
        headers["Idempotency-Key"] = idempotency_key
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(ATTEMPTS):
        wait_seconds = min(2.0**attempt, 30.0)
        try:
            with urlopen(Request(URL + path, data, headers, method=method), timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except HTTPError as error:  # an answer: a problem document (RFC 9457) with `code` and `detail`
            if error.code not in WORTH_REPEATING:
                sys.exit(error.read().decode())
            wait_seconds = float(error.headers.get("Retry-After") or wait_seconds)
        except OSError as error:  # no answer: the push may have been accepted, or not
            if isinstance(getattr(error, "reason", None), SSLCertVerificationError):
                sys.exit(f"{error}; for a CA of your own set SSL_CERT_FILE to its ca.pem")
            print(f"no answer ({error}), again in {wait_seconds:g} s", file=sys.stderr)
        time.sleep(wait_seconds)
    sys.exit("the server could not be reached")


device_id, order, title = sys.argv[1:]
push = {"target": {"device": device_id}, "notification": {"title": title}, "ttl": TTL_SECONDS}
# The key makes repeating safe: for 24 hours the same key with the same push is one push. It comes from what the push
# is about, so that it is the same when this program has crashed and is started again.
accepted = request("POST", "/v1/pushes", push, idempotency_key=order)

# 202: the push is on the server's disk, and will end delivered or with a reason. Webhooks tell that without asking.
print(f"accepted as {accepted['push_id']}", flush=True)
while True:
    counts = request("GET", f"/v1/pushes/{accepted['push_id']}")["counts"]
    state = next(name for name, number in counts.items() if number and name != "targeted")
    if state not in ("waiting", "sent"):
        break
    time.sleep(0.5)
delivery = request("GET", f"/v1/pushes/{accepted['push_id']}/deliveries")["items"][0]
print(f"{delivery['device_id']}: {delivery['state']}{', ' + delivery['reason'] if delivery['reason'] else ''}")
