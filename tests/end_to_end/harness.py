"""What every black-box test stands on: the real server process, its HTTP interface, and waiting with a deadline.

Nothing here imports the product, but for the empty ledger that new servers begin with. With `--database postgresql`
each data directory of this tree's servers has a database of its own in the run's PostgreSQL. `Server` starts `python -m
gateway serve` with the interpreter that runs the tests, on free ports, reads the ready line and the admin key as an
operator would, and can be killed with SIGKILL and started again on the same ports and data. `Api` spells the HTTP
contract once; its `counts` checks the conservation law on every single call, so that each test that looks at a push
holds the law up without saying so.

Waiting is by `wait_for`: it polls, because the other side is another process, and fails with a sentence.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import httpx2

from tests import postgresql
from tests.empty_ledger import make_data_directory
from tests.end_to_end import warm_start
from tests.end_to_end.warm_start import WarmProcess

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "FLEETPUSH_DATABASE"
"""The variable of the setting that says where the ledger is."""
READY = re.compile(r"^fleetpush ready https?=(\S+):(\d+) mqtts?=(\S+):(\d+)((?: \w+=\S+)*)$")
THIS_TREE = (sys.executable, "-m", "gateway")
START_TIMEOUT = 30.0
"""Generous: a machine that runs eight test processes on two cores starts Python slowly."""
STATES = (
    "waiting",
    "sent",
    "delivered",
    "displayed",
    "dismissed",
    "opened",
    "acted",
    "expired",
    "superseded",
    "cancelled",
    "suppressed",
    "overflowed",
    "refused",
    "revoked",
)
ENDED_UNDELIVERED = STATES[7:]

Found = TypeVar("Found")


def wait_for(predicate: Callable[[], Found], *, timeout: float = 15.0, what: str = "it to happen") -> Found:
    """The first truthy answer of `predicate`; an AssertionError that says what was waited for after `timeout`."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {found!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


PORT_ATTEMPTS = 20
PORT_PAUSE_SECONDS = 0.5


class StartFailed(Exception):
    """The server ended before it was ready."""

    def __init__(self, exit_code: int, output: str) -> None:
        super().__init__(f"the server ended with {exit_code} before it was ready:\n{output}")
        self.exit_code = exit_code
        self.output = output


class Server:
    """One data directory and the process that serves it."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        env: dict[str, str] | None = None,
        ca: Path | None = None,
        open_files: int | None = None,
        program: Sequence[str] = THIS_TREE,
        sockets: Mapping[str, socket.socket] | None = None,
    ) -> None:
        """`ca`: who signed the certificate that it speaks TLS with. `open_files`: the descriptors it may have.
        `program`: an installed one instead of this tree's. `sockets`: passed to it under these names, as a service
        manager does."""
        self.data_dir = data_dir
        self.program = program
        self.options = options
        self.env = clean_environment(**(env or {}))
        self.http_port = 0
        self.mqtt_port = 0
        self.ca = ca
        self.open_files = open_files
        self.sockets = sockets or {}
        self.listening: list[str] = []
        """Where else it listens, HOST:PORT or a path, in the order of its options."""
        self.stdout = ""
        self._errors = data_dir.with_name(data_dir.name + ".stderr")
        self._process: subprocess.Popen[str] | WarmProcess | None = None
        self._reader: threading.Thread | None = None
        self._api: Api | None = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._api is not None:
            self._api.close()
        if self._process is not None and self._process.poll() is None:
            self.kill9()

    def start(self) -> Server:
        """Start and wait for the ready line; the ports of an earlier start are kept, and one that was chosen before.

        Meanwhile the kernel may have given one of them to somebody's outgoing connection: that ends, and is waited for.
        """
        for _ in range(PORT_ATTEMPTS if self.http_port else 0):
            try:
                return self._start()
            except StartFailed as failure:
                if " is in use (`ss " not in failure.output.rstrip().rpartition("\n")[2]:
                    raise
                time.sleep(PORT_PAUSE_SECONDS)
        return self._start()

    def _start(self) -> Server:
        assert self._process is None or self._process.poll() is not None, "one process at a time"
        command = [*self.program, "serve", "--data-dir", str(self.data_dir)]
        command += ["--mqtt-port", str(self.mqtt_port), "--http-port", str(self.http_port), *self.options]
        folder = self.data_dir.parent
        # A faster clock wants to make its ledger itself; what was installed may have a schema of its own.
        if self.program == THIS_TREE and DATABASE not in self.env:
            self.env |= database_environment(self.data_dir)
            if DATABASE not in self.env and not self.data_dir.exists() and "--clock-speed" not in self.options:
                make_data_directory(self.data_dir)
        with self._errors.open("ab") as errors:
            if command[: len(THIS_TREE)] == list(THIS_TREE) and warm_start.can_start(self.env):
                sockets = [each.fileno() for each in self.sockets.values()]
                self._process = WarmProcess(
                    command[len(THIS_TREE) :],
                    errors.fileno(),
                    self._environment(),
                    folder,
                    sockets=sockets,
                    open_files=self.open_files,
                )
            else:
                assert not self.sockets, "only a process of this tree gets them"
                assert self.open_files is None, "the same"
                self._process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, text=True, env=self.env, cwd=folder
                )
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process, ready), daemon=True)
        self._reader.start()
        if not ready.wait(START_TIMEOUT):
            self.kill9()
            raise AssertionError(f"no ready line within {START_TIMEOUT:g} s:\n{self.output}")
        exit_code = self._process.poll()
        if exit_code is not None:
            self._reader.join()
            raise StartFailed(exit_code, self.output)
        return self

    def _environment(self) -> dict[str, str]:
        if not self.sockets:
            return self.env
        return self.env | {"LISTEN_FDS": str(len(self.sockets)), "LISTEN_FDNAMES": ":".join(self.sockets)}

    def kill9(self) -> None:
        """No goodbye: what the process had not made durable is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> Server:
        """Start again on the same data and ports, killing the old process first if it still runs."""
        if self.running:
            self.kill9()
        return self.start()

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "started before"
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        assert self._process is not None, "started before"
        assert self._reader is not None, "started before"
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "started before"
        return self._process.pid

    @property
    def errors(self) -> str:
        """Everything on stderr, over all starts."""
        return self._errors.read_text(errors="replace") if self._errors.exists() else ""

    def wait_log(self, pattern: str) -> str:
        """The first line on stderr in which a pattern is found, when there is one."""
        found = wait_for(lambda: re.search(f".*(?:{pattern}).*", self.errors), what=f"{pattern!r} in the log")
        assert found is not None, "waited for"
        return found[0]

    @property
    def output(self) -> str:
        """Everything a terminal would have shown, over all starts."""
        return self.stdout + self.errors

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def url(self) -> str:
        return f"{'http' if self.ca is None else 'https'}://127.0.0.1:{self.http_port}"

    @property
    def api(self) -> Api:
        """The HTTP interface with the admin key of this server."""
        if self._api is None:
            self._api = Api(self.url, self.admin_key, self.ca)
        return self._api

    def _read(self, process: subprocess.Popen[str] | WarmProcess, ready: threading.Event) -> None:
        assert process.stdout is not None, "opened as a pipe"
        with process.stdout:
            for line in process.stdout:
                self.stdout += line
                if match := READY.match(line.rstrip("\n")):
                    self.http_port, self.mqtt_port = int(match[2]), int(match[4])
                    self.listening = [token.partition("=")[2] for token in match[5].split()]
                    ready.set()
        process.wait()
        ready.set()


class Api:
    """The HTTP contract (docs/contract.md) as a test speaks it. `request` for raw answers, the rest expects success."""

    def __init__(self, url: str, key: str | None, ca: Path | None = None) -> None:
        self.key = key
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        trust = False if ca is None else ssl.create_default_context(cafile=ca)  # True: it reads all CAs of the machine
        self._client = httpx2.Client(base_url=url, headers=headers, timeout=30.0, trust_env=False, verify=trust)

    def close(self) -> None:
        self._client.close()

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self._client.request(method, path, **options)

    def call(self, method: str, path: str, expect: int, **options: Any) -> Any:
        answer = self.request(method, path, **options)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def enrol(self, device_id: str | None = None, **fields: Any) -> Device:
        body = fields if device_id is None else {"device_id": device_id, **fields}
        return Device(self.call("POST", "/v1/devices", 201, json=body))

    def enrol_many(self, device_ids: Iterable[str], **fields: Any) -> list[Device]:
        devices = [{"device_id": device_id, **fields} for device_id in device_ids]
        answer = self.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
        return [Device(device) for device in answer["devices"]]

    def push(self, target: str | dict[str, Any], **fields: Any) -> str:
        """POST one push (to a device id, or any target); its push id."""
        return str(self.accept(target, **fields)["push_id"])

    def accept(self, target: str | dict[str, Any], *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """POST one push; the whole 202 answer."""
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"target": {"device": target} if isinstance(target, str) else target, **fields}
        answer = self.call("POST", "/v1/pushes", 202, json=body, headers=headers)
        assert isinstance(answer, dict)
        return answer

    def push_batch(self, pushes: Iterable[dict[str, Any]]) -> list[str]:
        """POST pushes as one batch, all of which must be accepted; their push ids in order."""
        lines = [json.dumps(push) for push in pushes]
        answer = self.request(
            "POST",
            "/v1/pushes/batch",
            content="\n".join(lines).encode(),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert answer.status_code == 200, answer.text
        results = [json.loads(line) for line in answer.text.splitlines() if line]
        assert len(results) == len(lines), f"{len(lines)} lines asked, {len(results)} answered"
        assert all(result["status"] == 202 for result in results), [r for r in results if r["status"] != 202][:3]
        return [result["push_id"] for result in results]

    def is_ready(self) -> bool:
        """Whether the server answers, and takes pushes."""
        try:
            return self.request("GET", "/readyz").status_code == 200
        except httpx2.HTTPError:
            return False

    def counts(self, push_id: str) -> dict[str, int]:
        """The counts of a push, having checked that they conserve."""
        return self.checked_counts(push_id, self.call("GET", f"/v1/pushes/{push_id}", 200))

    @staticmethod
    def checked_counts(push_id: str, report: dict[str, Any]) -> dict[str, int]:
        """The counts in what was answered about a push, having checked that they conserve."""
        counts: dict[str, int] = report["counts"]
        assert set(counts) == {"targeted", *STATES}, counts
        assert sum(counts[state] for state in STATES) == counts["targeted"], f"{push_id} does not conserve: {counts}"
        reached = report["reached"]
        assert set(reached) == {"delivered", "displayed", "opened", "acted"}, reached
        assert all(0 <= number <= counts["targeted"] for number in reached.values()), reached
        return counts

    def reached(self, push_id: str) -> dict[str, int]:
        reached = self.call("GET", f"/v1/pushes/{push_id}", 200)["reached"]
        assert isinstance(reached, dict)
        return reached

    def only(self, push_id: str) -> dict[str, int]:
        """The counts without zeros and without `targeted`."""
        return {state: n for state, n in self.counts(push_id).items() if n and state != "targeted"}

    def wait_counts(self, push_id: str, timeout: float = 15.0, **expected: int) -> None:
        """Wait until the named counts hold and all others are 0."""
        wait_for(lambda: self.only(push_id) == expected, timeout=timeout, what=f"{expected} of {push_id}")

    def deliveries(self, push_id: str) -> dict[str, dict[str, Any]]:
        """By device id."""
        return {item["device_id"]: item for item in self.items(f"/v1/pushes/{push_id}/deliveries")}

    def delivery(self, push_id: str) -> dict[str, Any]:
        """The one delivery of a push to one device."""
        (item,) = self.deliveries(push_id).values()
        return item

    def mailbox(self, device_id: str) -> list[str]:
        """The push ids that wait for a device, in order."""
        return [item["push_id"] for item in self.items(f"/v1/devices/{device_id}/mailbox")]

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor = None
        while True:
            parameters = {"limit": "1000"} | ({} if cursor is None else {"cursor": cursor})
            page = self.call("GET", path, 200, params=parameters)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def device(self, device_id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/v1/devices/{device_id}", 200)
        assert isinstance(answer, dict)
        return answer

    def wait_online(self, device_id: str, online: bool = True) -> None:
        wait_for(
            lambda: self.device(device_id)["online"] is online,
            what=f"{device_id} to be {'online' if online else 'offline'}",
        )

    def wait_last_error(self, device_id: str) -> str:
        return str(wait_for(lambda: self.device(device_id)["last_error"], what=f"a last_error of {device_id}"))


class Device:
    """What enrolment answers."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.id: str = answer["device_id"]
        self.token: str = answer["token"]
        self.mqtt: dict[str, Any] = answer["mqtt"]
        self.topics: dict[str, str] = answer["mqtt"]["topics"]
        self.client_id: str = answer["mqtt"]["client_id"]


def clean_environment(**changes: str) -> dict[str, str]:
    """The tests' environment without anything that configures the product, plus `changes`. Which form of it runs is
    that of the tests."""
    kept = {n: value for n, value in os.environ.items() if n == "FLEETPUSH_PURE" or not n.startswith("FLEETPUSH_")}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200"} | changes


def database_environment(data_dir: Path) -> dict[str, str]:
    """What tells a server of this tree, or a command, where the ledger of a data directory is in this run."""
    return {DATABASE: postgresql.database_for(data_dir)} if postgresql.is_used() else {}


def fleetpush(
    *arguments: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60.0,
    stdin: str | None = None,
    package: str = "gateway",
) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end. `package`: the broker has one, too."""
    environment = clean_environment(**(env or {}))
    command = [sys.executable, "-m", package, *arguments]
    if not warm_start.can_start(environment):
        return subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout, input=stdin or ""
        )
    with TemporaryFile() as given, TemporaryFile() as errors:
        given.write((stdin or "").encode())
        given.seek(0)
        process = WarmProcess(
            arguments, errors.fileno(), environment, cwd or Path.cwd(), given.fileno(), package=package
        )
        overdue = threading.Timer(timeout, process.send_signal, (signal.SIGKILL,))
        overdue.start()
        with process.stdout:
            output = process.stdout.read()
        code = process.wait(timeout)
        overdue.cancel()
        errors.seek(0)
        return subprocess.CompletedProcess(command, code, output, errors.read().decode(errors="replace"))


@contextmanager
def running(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None, errors: IO[bytes] | None = None
) -> Iterator[WarmProcess]:
    """A command that goes on until it is told to end, or until the test ends. `errors`: where its stderr goes."""
    environment = clean_environment(**(env or {}))
    assert warm_start.can_start(environment), "a forked process may have this environment"
    process = WarmProcess(arguments, 2 if errors is None else errors.fileno(), environment, cwd or Path.cwd())
    with process.stdout:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def expect_problem(answer: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document of a refusal, checked for its form (RFC 9457 and the catalogue's members)."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.headers["content-type"]
    document: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "code", "detail", "retryable"} <= set(document), document
    assert document["status"] == status
    assert isinstance(document["retryable"], bool)
    assert document["title"]
    assert document["detail"]
    if code is not None:
        assert document["code"] == code, document
    return document
