"""A 2xx, a SUBACK and a PUBACK leave the process after the fsync of their group: read from the system calls.

A `kill -9` leaves the kernel's page cache alone, so only the order of system calls shows that a power cut would be
survived as well. strace stops the process at each call, so the order of its lines is the order of cause and effect:
between the read of a request and the write of its answer one fsync or fdatasync of a database must begin and end.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Api, Server, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.third_party import require

CALLS = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync"
LINE = re.compile(r"^(\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)$")


class Trace:
    """The system calls of a server, one event per line: ("read" | "write" | "synced" | "syncing", text)."""

    def __init__(self, path: Path) -> None:
        self.events: list[tuple[str, str]] = []
        begun: dict[str, str] = {}
        for line in path.read_text(errors="replace").splitlines():
            match = LINE.match(line)
            if match is None:
                continue
            thread, rest = match[1], match["rest"]
            call = match["call"] or match["resumed"]
            whole = begun.pop(thread, "") + rest
            finished = not rest.endswith("<unfinished ...>")
            if not finished:
                begun[thread] = rest.removesuffix("<unfinished ...>")
            if call in ("fsync", "fdatasync"):
                if match["call"]:
                    self.events.append(("syncing", thread))
                if finished and ".db" in whole and whole.rstrip().endswith("= 0"):
                    self.events.append(("synced", thread))
            elif call in ("write", "writev", "sendto", "sendmsg"):
                if match["call"]:  # a write counts from its beginning, a read from its end
                    self.events.append(("write", rest))
            elif finished:
                self.events.append(("read", whole))

    def synced_between(self, request: str, answer: str) -> int:
        """Check every answer; how many there were. Both are regular expressions; the request's first group, if any, is
        put into the answer's place `%s` (that is how concurrent conversations are told apart)."""
        waiting: dict[str, int] = {}
        """What the answer will look like -> the event number of its request."""
        answers = 0
        for number, (kind, text) in enumerate(self.events):
            if kind == "read" and (asked := re.search(request, text)):
                waiting[answer % asked.groups() if asked.groups() else answer] = number
            elif kind == "write":
                for pattern, since in list(waiting.items()):
                    if re.search(pattern, text):
                        assert self._synced(since, number), f"answered before its fsync: {text}"
                        del waiting[pattern]
                        answers += 1
        return answers

    def _synced(self, since: int, until: int) -> bool:
        """Whether one sync began and ended in between."""
        begun: set[str] = set()
        for kind, text in self.events[since:until]:
            if kind == "syncing":
                begun.add(text)
            elif kind == "synced" and text in begun:
                return True
        return False


@contextmanager
def traced(server: Server, output: Path) -> Iterator[None]:
    command = [require("strace"), "-f", "-y", "-s", "512", "-e", f"trace={CALLS}", "-o", str(output)]
    strace = subprocess.Popen([*command, "-p", str(server.pid)], stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None, "opened as a pipe"
    said: list[str] = []
    attached = threading.Event()

    def listen() -> None:
        assert strace.stderr is not None, "opened as a pipe"
        for line in strace.stderr:
            said.append(line)
            attached.set()
        attached.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        attached.wait(10)
        if strace.poll() is not None or any("not permitted" in line for line in said):
            reason = f"strace may not attach here: {''.join(said).strip()}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        # Attached to the first thread; a file that grows shows that the others are watched too.
        wait_for(
            lambda: (
                server.api.request("GET", "/healthz").status_code == 200
                and output.exists()
                and output.stat().st_size > 0
            )
        )
        yield
    finally:
        strace.terminate()
        strace.wait(10)
        listener.join()
        strace.stderr.close()


@pytest.mark.sqlite("which syncs its file itself")
def test_every_2xx_on_a_push_follows_the_fsync_of_its_group(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    api = server.api
    api.enrol_many(["kiosk-1", "kiosk-2"])
    with traced(server, tmp_path / "trace"):
        for number in range(10):
            api.push({"all": True}, data=f"one-{number}")
        api.push_batch([{"target": {"all": True}, "data": f"line-{number}"} for number in range(5)])
        api.enrol("kiosk-3")
        with ThreadPoolExecutor(8) as pool:

            def send(number: int) -> None:
                mine = Api(server.url, server.admin_key)
                mine.push({"all": True}, data=f"many-{number}")
                mine.close()

            list(pool.map(send, range(24)))
    trace = Trace(tmp_path / "trace")
    # Each descriptor's own conversation: the number before the socket's name ties an answer to its request.
    assert trace.synced_between(r"^(\d+)<.*POST /v1/pushes HTTP", r"^%s<.*HTTP/1\.1 202") == 34
    assert trace.synced_between(r"^(\d+)<.*POST /v1/pushes/batch HTTP", r'^%s<.*\\"status\\": ?202') == 1
    assert trace.synced_between(r"^(\d+)<.*POST /v1/devices HTTP", r"^%s<.*HTTP/1\.1 201") == 1


@pytest.mark.sqlite("which syncs its file itself")
def test_suback_and_puback_follow_the_fsync_of_what_they_promise(
    start_server: StartServer, wire: Wire, tmp_path: Path
) -> None:
    server = start_server()
    enrolled = server.api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled)
    with traced(server, tmp_path / "trace"):
        client.start()
        push_id = server.api.push(enrolled.id)
        client.wait_push(push_id)
        for number in range(5):
            assert client.publish(client.leaf("uplink/door"), f"knock-{number}") == 0
        assert client.publish(client.leaf("uplink/door"), "knock-2", qos=2) == 0
    trace = Trace(tmp_path / "trace")
    subscribe, suback, puback, pubrec = r"^(\d+)<.*\"\\202", r"^%s<.*\"\\220\\3", r"^%s<.*\"@\\2", r"^%s<.*\"P\\2"
    assert trace.synced_between(subscribe, suback) == 1
    # The first PUBLISH may come with the PUBACK of the push in one segment.
    assert trace.synced_between(r"^(\d+)<.*2\.\\0#.*knock-", puback) == 5
    assert trace.synced_between(r"^(\d+)<.*4\.\\0#.*knock-", pubrec) == 1
