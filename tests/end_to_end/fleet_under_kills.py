"""A fleet and a sender around a server that is killed again and again, and a ledger of them that is kept from outside.

The devices speak in both directions with QoS 0, 1 and 2; they acknowledge, stay silent, acknowledge twice or a server
run too late, change their minds about consent and channels, send receipts with results and say things on `uplink`. The
sender pushes to them with every QoS, priority, lifetime and collapse key, on channels with caps and quiet hours and on
channels without, and recalls some of it. While that goes on the server's process is killed with SIGKILL, now and then
while its ledger's file is locked, so that the kill falls between the commits of its two files.

`judge` derives from these books alone what each push may have become. It shares no code with the server:

 1. A push that was answered with 202 has one delivery for each of its devices, and their states sum to `targeted`.
 2. Whatever ended undelivered has its reason, and somebody gave that reason: a short ttl, a newer push with its
    collapse key, a recall, a consent that was not given or a channel that was muted at some moment of its life, a cap.
 3. What is booked as delivered had arrived, and its device had acknowledged it (or said a receipt for it).
 4. QoS 2 arrives at most once, and exactly once if it is delivered; nothing arrives again after its acknowledgement was
    seen in the ledger.
 5. Per device and priority what is not held back by caps or quiet hours arrives in the order of acceptance, on every
    connection and over all of them; RETAIN is never set, and no QoS is above what was asked for.
 6. Nothing arrives after its lifetime.
 7. Each receipt that the server acknowledged is in the ledger, `acted` with its result; each uplink message is kept, in
    order, and once if it was said with QoS 2; the last choice that was acknowledged is the one that holds.
 8. A push that was accepted while a device's acknowledged choice was not to have it does not arrive there.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.end_to_end.harness import ENDED_UNDELIVERED, Api, Server, wait_for
from tests.end_to_end.ledger_access import stalled_ledger
from tests.end_to_end.wire_device import PUBACK, PUBREC, V4, V5, Disconnected, Publish, WireDevice

ARRIVED = ("delivered", "displayed", "dismissed", "opened", "acted")
DEVICES = 10
QOS_2_DEVICES = 5
"""So many of them subscribe with QoS 2, the others with QoS 1."""
CHANNELS: dict[str, dict[str, Any]] = {
    "dropping": {"caps": {"limits": [{"count": 5, "per": "hour"}], "excess": "drop"}},
    "deferring": {"caps": {"limits": [{"count": 5, "per": "hour"}], "excess": "defer"}},
    "nightly": {"quiet_hours": {"start": "00:00", "end": "23:59", "excess": "defer"}},
    "plain": {},
    "other": {},
}
HELD_BACK = ("dropping", "deferring", "nightly")
"""Channels whose alerts caps or quiet hours may hold back."""
UNAVAILABLE = (0x03, 0x88, 0x89)
"""Codes of CONNACK, in 3.1.1 and 5.0, while nobody can be looked up in the ledger, or a server ends."""
LATE_S = 2.5
"""How much later than its ttl an arrival may be read here: `ttl` is in whole seconds, and threads share two cores."""


@dataclass(slots=True)
class Sent:
    """A push that was accepted."""

    number: int
    """In the order of acceptance: one sender waits for each answer."""
    request: dict[str, Any]
    asked_at: float
    answered_at: float
    recalled: bool = False
    """A recall was tried."""
    recall_refused: bool = False
    """It goes on then, behind what was handed over meanwhile."""

    @property
    def held_back(self) -> bool:
        return self.request.get("channel") in HELD_BACK


@dataclass(slots=True)
class Said:
    """Something that a device says until the server has acknowledged it."""

    leaf: str
    content: dict[str, Any]
    qos: int
    packet_id: int | None = None
    """Once it was sent; it is sent again under the same."""
    received: bool = False
    """PUBREC came: from then on PUBREL is repeated."""
    said_at: float = 0.0
    acknowledged_at: float = 0.0


@dataclass(slots=True)
class ObservedDevice:
    """A device, what it decided, and everything that it said."""

    wire: WireDevice
    qos: int
    outbox: list[Said] = field(default_factory=list)
    done: list[Said] = field(default_factory=list)
    consent: str = "granted"
    muted: set[str] = field(default_factory=set)
    seq: int = 0
    run_of: dict[int, int] = field(default_factory=dict)
    """Connection -> the server run it was made in."""
    uplinks: int = 0

    @property
    def id(self) -> str:
        return self.wire.client_id

    def choices(self) -> list[Said]:
        """Everything it said about consent and channels, the unacknowledged included."""
        return [said for said in self.done + self.outbox if said.leaf == "settings" and said.said_at]


class FleetUnderKills:
    """See the module: `start`, `kill_and_restart` as often as you like, `finish`, `judge`."""

    def __init__(self, server: Server, wire: Callable[..., WireDevice], dice: random.Random) -> None:
        self.server = server
        self.api = server.api
        self.faults: list[str] = []
        self.accepted: dict[str, Sent] = {}
        self.recorded: dict[tuple[str, str], float] = {}
        """(device, push) -> when its acknowledgement was first seen in the ledger."""
        self.run = 1
        for channel_id, rules in CHANNELS.items():
            self.api.call("POST", "/v1/channels", 201, json={"id": channel_id, "name": channel_id, **rules})
        enrolled = self.api.enrol_many([f"kiosk-{n}" for n in range(DEVICES)], tags=["hall"])
        self.devices = [
            ObservedDevice(wire(server, device, version=(V4, V5)[n % 2]), 2 if n < QOS_2_DEVICES else 1)
            for n, device in enumerate(enrolled)
        ]
        self._dice = dice
        self._open = threading.Event()
        self._staying = threading.Event()
        self._stopping = threading.Event()
        self._rest = threading.Condition()
        self._resting = 0
        self._sender = threading.Thread(target=self._guard, args=(self._send, random.Random(dice.random())))
        self._threads = [
            threading.Thread(target=self._guard, args=(self._live, device, random.Random(dice.random())))
            for device in self.devices
        ]
        for thread in (self._sender, *self._threads):
            thread.daemon = True

    # -- the run

    def start(self) -> None:
        self._open.set()
        for thread in (self._sender, *self._threads):
            thread.start()

    def kill_and_restart(self) -> None:
        """SIGKILL now, or while the ledger's file is locked from outside; then a new run on the same data."""
        if self._dice.random() < 0.3:
            with stalled_ledger(self.server):
                time.sleep(self._dice.uniform(0.02, 0.3))  # what comes meanwhile waits for the lock, and is killed
                self._kill()
        else:
            self._kill()
        self._start_again()

    def crash_below(self, crash: Callable[[], None], exit_code: int) -> None:
        """Let what the server stands on crash and come back. A server that ends because of it, with this exit code, is
        started again; otherwise it is the same run."""
        crash()
        wait_for(
            lambda: not self.server.running or self.api.is_ready(), timeout=30, what="the server to be back, or over"
        )
        if not self.server.running:
            self._open.clear()
            assert self.server.wait() == exit_code, self.server.output
            self._start_again()

    def _start_again(self) -> None:
        with self._rest:
            everybody = sum(thread.is_alive() for thread in (self._sender, *self._threads))
            assert self._rest.wait_for(lambda: self._resting >= everybody, 30), "the fleet did not come to rest"
        self.server.start()
        self.run += 1
        if self._dice.random() < 0.2:
            self._note_recorded()
        self._open.set()

    def _kill(self) -> None:
        self._open.clear()
        self.server.kill9()

    def finish(self) -> None:
        """No more pushes; every device stays and says what is left, and everything comes to its end."""
        self._staying.set()
        self._stopping.set()
        self._sender.join(60)
        for device in self.devices:
            wait_for(lambda: not device.outbox or self.faults, timeout=60, what=f"{device.id} to say all")  # noqa: B023
        for push_id, sent in self.accepted.items():
            if not self.faults:
                wait_for(lambda: self._has_ended(push_id, sent), timeout=60, what=f"{push_id} to end: {sent}")  # noqa: B023
        self._note_recorded()
        self._staying.clear()
        for thread in self._threads:
            thread.join(30)

    def _has_ended(self, push_id: str, sent: Sent) -> bool:
        counts = self.api.only(push_id)
        open_states = {"waiting"} if sent.held_back else set()
        if sent.request["qos"] == 0:
            open_states.add("sent")
        return not (counts.keys() & {"waiting", "sent"}) - open_states

    def _note_recorded(self) -> None:
        for push_id in list(self.accepted)[-200:]:
            for device_id, delivery in self.api.deliveries(push_id).items():
                if delivery["state"] in ARRIVED:
                    self.recorded.setdefault((device_id, push_id), time.monotonic())

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # a thread's failure is the test's failure
            self.faults.append(f"{work.__name__}: {error!r}")
            raise

    def _pause(self) -> None:
        """Wait here while the server is down."""
        with self._rest:
            self._resting += 1
            self._rest.notify_all()
        self._open.wait(60)
        with self._rest:
            self._resting -= 1

    # -- a device

    def _live(self, device: ObservedDevice, dice: random.Random) -> None:
        while self._staying.is_set() or not self._stopping.is_set():
            if not self._open.is_set():
                self._pause()
            try:
                self._visit(device, dice)
            except (Disconnected, OSError):
                continue
        device.wire.drop()

    def _visit(self, device: ObservedDevice, dice: random.Random) -> None:
        """Come, answer, say things, and go with or without a word."""
        wire, staying = device.wire, self._staying.is_set()
        manner = "prompt" if staying else dice.choice(("prompt", "prompt", "silent", "twice", "late"))
        wire.answer = lambda publish: 0 if manner in ("prompt", "twice") else None
        wire.completing = staying or dice.random() < 0.7
        came_before = bool(device.run_of)
        device.run_of[wire.connections + 1] = self.run
        connack = wire.try_connect()
        if connack.code in UNAVAILABLE:
            raise Disconnected(device.id)
        assert connack.code == 0, f"{device.id} was refused with {connack.code:#x}"
        if not connack.session_present:
            if came_before and wire.subscribed:
                self.faults.append(f"{device.id} lost its session")
            assert wire.subscribe(qos=device.qos) == device.qos
            wire.subscribed = True
        if manner == "late":
            self._acknowledge_late(device)
        until = time.monotonic() + dice.uniform(0.05, 0.8)
        while self._staying.is_set() if staying else time.monotonic() < until and not self._staying.is_set():
            if not wire.connected:
                raise Disconnected(device.id)
            if manner == "twice" and wire.acknowledged and dice.random() < 0.3:
                wire.acknowledge_again(wire.acknowledged[-1])
            self._think(device, dice, staying)
            while device.outbox:
                self._say(device)
            time.sleep(0.02)
        if dice.random() < 0.5:
            wire.disconnect()
        else:
            wire.drop()
        if not self._staying.is_set():
            self._staying.wait(dice.uniform(0, 0.5))  # away

    def _acknowledge_late(self, device: ObservedDevice) -> None:
        """As a client that acknowledges in its own time: what it got before the server ended, now."""
        answered = {id(publish) for publish in device.wire.acknowledged}
        for publish in device.wire.received[-50:]:
            before = device.run_of.get(publish.connection, 0) < self.run
            if before and publish.qos == 1 and id(publish) not in answered:
                device.wire.acknowledge(publish)

    def _think(self, device: ObservedDevice, dice: random.Random, staying: bool) -> None:
        """Decide on something to say, now and then."""
        luck = dice.random()
        if staying or device.outbox or luck > 0.5:
            return
        qos = dice.choice((1, 2))
        if luck < 0.2 and device.wire.received:
            push_id = dice.choice(device.wire.received[-20:]).push_id
            event = dice.choice(("displayed", "opened", "acted"))
            content: dict[str, Any] = {"push_id": push_id, "event": event}
            if event == "acted":
                content |= {"action": "play", "result": {"by": device.id, "of": push_id}}
            device.outbox.append(Said("receipts", content, qos))
        elif luck < 0.3:
            device.uplinks += 1
            device.outbox.append(Said("uplink/door", {"n": device.uplinks}, qos))
        elif luck < 0.34:
            device.seq += 1
            device.consent = dice.choice(("granted", "granted", "denied"))
            device.outbox.append(Said("settings", {"consent": device.consent, "seq": device.seq}, qos))
        elif luck < 0.4:
            device.seq += 1
            channel = dice.choice(("plain", "other", "dropping"))
            device.muted ^= {channel}
            content = {"channels": {channel: channel not in device.muted}, "seq": device.seq}
            device.outbox.append(Said("settings", content, qos))

    def _say(self, device: ObservedDevice) -> None:
        """Send the oldest of the outbox until it is acknowledged, as the specification has a sender do it."""
        said, wire = device.outbox[0], device.wire
        if not said.received:
            said.said_at = said.said_at or time.monotonic()
            again = said.packet_id
            # The identifier is known before the packet leaves: a connection that ends meanwhile may have delivered it.
            said.packet_id = wire.next_packet_id() if again is None else again
            wire.send_publish(
                wire.leaf(said.leaf), said.content, qos=said.qos, under=said.packet_id, dup=again is not None
            )
            code = wire.wait_answer(PUBACK if said.qos == 1 else PUBREC, said.packet_id)
            if code >= 0x80:
                self.faults.append(f"{device.id} said {said}, answered {code:#x}")
            said.received = True
            said.acknowledged_at = time.monotonic()
        if said.qos == 2:
            assert said.packet_id is not None, "sent before"
            wire.release(said.packet_id)
        device.done.append(device.outbox.pop(0))

    # -- the sender

    def _send(self, dice: random.Random) -> None:
        api = Api(self.server.url, self.server.admin_key)
        try:
            while not self._stopping.is_set():
                if not self._open.is_set():
                    self._pause()
                try:
                    self._push(api, some_push(dice), dice)
                except httpx2.HTTPError:
                    continue  # killed before the answer: no promise was made
                time.sleep(dice.uniform(0, 0.02))
        finally:
            api.close()

    def _push(self, api: Api, request: dict[str, Any], dice: random.Random) -> None:
        asked_at = time.monotonic()
        answer = api.request("POST", "/v1/pushes", json=request)
        if answer.status_code != 202:
            if answer.status_code != 503:  # locked from outside: nothing was promised
                self.faults.append(f"{answer.status_code} {answer.text}")
            return
        push_id = answer.json()["push_id"]
        self.accepted[push_id] = Sent(len(self.accepted), request, asked_at, time.monotonic())
        luck = dice.random()
        if luck < 0.05:
            self.accepted[push_id].recalled = True
            answer = api.request("DELETE", f"/v1/pushes/{push_id}")
            self.accepted[push_id].recall_refused = answer.status_code == 503
        elif luck < 0.15:
            answer = api.request("GET", f"/v1/pushes/{push_id}")
            if answer.status_code not in (200, 503):
                self.faults.append(f"{answer.status_code} {answer.text}")
            elif answer.status_code == 200:
                api.checked_counts(push_id, answer.json())

    # -- the judgement

    def judge(self) -> None:
        assert not self.faults, self.faults[:5]
        assert len(self.accepted) > 10, "a fleet worth the name"
        for device in self.devices:
            self._judge_arrivals(device)
            self._judge_what_it_said(device)
        for push_id, sent in self.accepted.items():
            deliveries = self.api.deliveries(push_id)
            targets = self._targets(sent.request)
            assert set(deliveries) == targets, f"{push_id} has deliveries {deliveries}, was {sent}"
            assert self.api.counts(push_id)["targeted"] == len(targets)
            for device in self.devices:
                if device.id in targets:
                    self._judge_delivery(push_id, sent, device, deliveries[device.id])

    def _targets(self, request: dict[str, Any]) -> set[str]:
        target = request["target"]
        if "device" in target:
            return {target["device"]}
        return set(target["devices"]) if "devices" in target else {device.id for device in self.devices}

    def _judge_delivery(self, push_id: str, sent: Sent, device: ObservedDevice, delivery: dict[str, Any]) -> None:
        state, request = delivery["state"], sent.request
        seen = [publish for publish in device.wire.received if publish.push_id == push_id]
        receipts = [said for said in device.done + device.outbox if said.content.get("push_id") == push_id]
        told = f"{push_id} to {device.id} is {delivery}, arrived {seen}, receipts {receipts}, was {sent}"
        answered = any(publish.push_id == push_id for publish in device.wire.acknowledged)
        if state in ARRIVED:
            assert seen, f"booked, and never arrived: {told}"
            assert answered or receipts, f"booked, and its device never acknowledged it: {told}"
        elif state == "sent":
            assert request["qos"] == 0, told
        elif state == "waiting":
            assert sent.held_back, told
        else:
            assert state in ENDED_UNDELIVERED, told
            assert self._is_explained(state, delivery["reason"], sent, device), f"ended for no reason: {told}"
        if request["qos"] == 2 and device.qos == 2:
            fresh = sum(publish.fresh for publish in seen)
            assert fresh == 1 if state in ARRIVED else fresh <= 1, f"QoS 2 is exactly once: {told}"
        after = self.recorded.get((device.id, push_id))
        if after is not None:
            assert all(publish.at < after for publish in seen), f"again after its acknowledgement: {told}"
        late = sent.answered_at + request["ttl"] + LATE_S
        assert all(publish.at < late for publish in seen if publish.fresh), f"after its lifetime: {told}"
        if self._is_unwanted(sent, device):
            assert not seen, f"not wanted, and arrived: {told}"

    def _is_explained(self, state: str, reason: str, sent: Sent, device: ObservedDevice) -> bool:
        request = sent.request
        if state == "expired":
            return reason == "ttl" and request["ttl"] < 60
        if state == "superseded":
            key = request.get("collapse_key")
            newer = any(
                other.number > sent.number
                and other.request.get("collapse_key") == key
                and device.id in self._targets(other.request)
                for other in self.accepted.values()
            )
            # The newest may be one whose answer was lost in a kill.
            return key is not None and reason == "collapse_key" and (newer or self.run > 1)
        if state == "cancelled":
            return reason == "recalled" and sent.recalled
        if state == "suppressed":
            if reason == "capped":
                return request.get("channel") in ("dropping", "deferring")
            if reason == "quiet_hours":  # nothing to wait for
                return request.get("channel") == "nightly" and request["ttl"] == 0
            if reason == "no_consent":
                return request["kind"] == "alert" and any(
                    said.content.get("consent") == "denied" for said in device.choices()
                )
            return reason == "channel_muted" and any(
                said.content.get("channels", {}).get(request.get("channel")) is False for said in device.choices()
            )
        return False

    def _is_unwanted(self, sent: Sent, device: ObservedDevice) -> bool:
        """Whether the device's last acknowledged choice before the request, none being under way, was against it."""
        request, consent, muted = sent.request, "granted", set[str]()
        for said in device.choices():
            if said.acknowledged_at and said.acknowledged_at < sent.asked_at:
                consent = said.content.get("consent", consent)
                for channel, wanted in said.content.get("channels", {}).items():
                    muted = muted - {channel} if wanted else muted | {channel}
            elif said.said_at < sent.answered_at:
                return False  # under way: either answer is right
        if request["kind"] != "alert":
            return False
        return consent == "denied" or (request.get("channel") in muted and request["priority"] != "critical")

    def _judge_arrivals(self, device: ObservedDevice) -> None:
        last_on: dict[tuple[int, str], tuple[int, Publish]] = {}
        last_new: dict[str, tuple[int, Publish]] = {}
        known: set[str] = set()
        muted = {
            channel
            for said in device.choices()
            for channel, wanted in said.content.get("channels", {}).items()
            if not wanted
        }
        for publish in device.wire.received:
            assert not publish.retain, publish
            sent = self.accepted.get(publish.push_id)
            if sent is None:
                continue  # killed between its commit and its answer
            assert publish.qos <= min(sent.request["qos"], device.qos), publish
            new = publish.push_id not in known
            known.add(publish.push_id)
            passed = sent.request["priority"] == "critical" and sent.request.get("channel") in muted
            if sent.held_back or sent.recall_refused or (passed and not sent.request["ttl"]):
                continue  # what passes a muted channel now or never has no place among the others
            on = publish.connection, sent.request["priority"]
            before = last_on.get(on)
            told = f"{device.id} got {publish} ({sent}) after {before}"
            assert before is None or before[0] < sent.number, f"out of order on one connection: {told}"
            last_on[on] = sent.number, publish
            if new:
                before = last_new.get(sent.request["priority"])
                told = f"{device.id} got {publish} ({sent}) after {before}"
                assert before is None or before[0] < sent.number, f"out of order: {told}"
                last_new[sent.request["priority"]] = sent.number, publish

    def _judge_what_it_said(self, device: ObservedDevice) -> None:
        assert not device.outbox, device.outbox
        furthest: dict[str, Said] = {}
        for said in device.done:
            if said.leaf == "receipts":
                push_id, event = said.content["push_id"], said.content["event"]
                if push_id not in furthest or ARRIVED.index(event) > ARRIVED.index(furthest[push_id].content["event"]):
                    furthest[push_id] = said
        for push_id, said in furthest.items():
            delivery = self.api.deliveries(push_id)[device.id]
            told = f"{device.id} was acknowledged {said}, the ledger has {delivery} of {self.accepted.get(push_id)}"
            assert delivery["state"] == said.content["event"], f"an acknowledged receipt was lost: {told}"
            if said.content["event"] == "acted":
                assert delivery["result"] == said.content["result"], f"an acknowledged result was lost: {told}"
        kept = [
            json.loads(item["payload"])["n"]
            for item in reversed(list(self.api.items(f"/v1/devices/{device.id}/uplink")))
        ]
        assert kept == sorted(kept) or kept == sorted(kept, reverse=True), f"{device.id} said {kept}: out of order"
        for said in device.done:
            if said.leaf.startswith("uplink"):
                times = kept.count(said.content["n"])
                assert times == 1 if said.qos == 2 else times >= 1, f"{device.id} was acknowledged {said}: {kept}"
        choices = self.api.call("GET", f"/v1/devices/{device.id}/preferences", 200)
        if any("consent" in said.content for said in device.choices()):
            assert choices["consent"] == device.consent, f"{device.id}: {choices}, said {device.choices()[-3:]}"


def some_push(dice: random.Random) -> dict[str, Any]:
    targets: list[dict[str, Any]] = [
        {"device": f"kiosk-{dice.randrange(DEVICES)}"},
        {"devices": [f"kiosk-{n}" for n in dice.sample(range(DEVICES), 4)]},
        {"tag": "hall"},
        {"all": True},
    ]
    request: dict[str, Any] = {
        "target": dice.choice(targets),
        "kind": dice.choice(("alert", "alert", "silent", "command")),
        "qos": dice.choice((0, 1, 1, 2, 2)),
        "ttl": dice.choice((0, 1, 3600, 3600, 3600, 3600, 3600)),
        "priority": dice.choice(("critical", "high", "normal", "low")),
        "data": dice.randrange(1000),
    }
    if request["kind"] == "alert":
        request["notification"] = {"title": "Bread", "actions": [{"id": "play", "title": "Play"}]}
        if dice.random() < 0.7:
            request["channel"] = dice.choice(list(CHANNELS))
    if dice.random() < 0.1:
        request["collapse_key"] = dice.choice("ab")
    return request
