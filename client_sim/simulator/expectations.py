"""The outcome that every push must have on every device, and where the server's ledger differs.

Pushes have numbers from 0 and devices indexes from 0; times are seconds of one monotonic clock. The devices say what
took effect and which receipts the server has acknowledged, the sender what it asked for and what it was promised, and
at the end the server what became of each delivery. From these two records:

lost
    Accepted, no effect on the device, and the server does not say that it ended with a reason: it says that it waits,
    or was delivered, or it does not know of it.
duplicated
    An effect beyond the first of one push on one device, be it that a request that was repeated became two pushes.
late
    It took effect after the end of its ttl (counted from the answer, the latest moment at which it can have been
    accepted) and a grace for what is under way.
out of order
    B took effect before A on a device, though both have the same priority and A had been promised before B was asked
    for. Only such pairs have an order.
expired though online
    The server says `expired`, and the device was connected without a break from before the request until the end of the
    ttl, and the scenario let it listen.
disagreement
    An effect that the server does not book, a booking without an effect, or another level (delivered, displayed,
    opened, acted) than the receipts that it has acknowledged to the device. A push that arrived after the server gave
    it up is booked once a receipt proves it; its reason then keeps `after_<end>`.
ended without a cause
    The server says that a delivery ended, and nothing that was done calls for it: `expired` before its ttl was over, or
    though its device was connected for a long while within it; `superseded` without a later push with its collapse key
    to the same device; `overflowed` though fewer pushes were ever sent to the device than a mailbox holds; `refused`
    though the device never let one go unacknowledged; `suppressed` though the app has no rule that does it, and the
    person has not left (or, the other way round, what arrived though they had);
    `cancelled` and `revoked`, which a simulation never asks for.
not superseded
    It reached a device that came back after a newer push with its collapse key had been accepted for it.
events
    The last state of each delivery must have been told, by the stream and by the webhook, and nothing that was not so;
    and what one of them has told the other must have told too.
unanswered
    A connected device sent a receipt that was never acknowledged.

Of QoS 0 nobody acknowledges anything: `sent` is its last word, whether it arrived or its connection had ended.
`server_checks` asks the server besides, and puts what contradicts the devices into these expectations.

Two million deliveries take less than a gibibyte: arrivals and levels lie in arrays, one of each per push.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor, inf

from client_sim.simulator.comparison import NOT_ARRIVED, Comparison, SentPush, newer_push, was_listening
from client_sim.simulator.departures import Departures
from client_sim.simulator.event_observer import BITS, TYPES
from client_sim.simulator.human_behaviour import ACTED, DISPLAYED, OPENED
from client_sim.simulator.mailbox_checks import DISCONNECT_SECONDS, PRIORITIES, mailbox_mistakes, wrong_evictions
from client_sim.simulator.report_terms import ARRIVED, ENDED, OPEN
from client_sim.simulator.simulation_report import MAX_FINDINGS, Finding, FindingKind

LEVELS = {"delivered": 0, "displayed": DISPLAYED, "dismissed": DISPLAYED, "opened": OPENED, "acted": ACTED}
STATES = ("unknown", *OPEN, *ARRIVED, *ENDED)
"""`unknown`: the server does not list the delivery."""
_CODES = {state: code for code, state in enumerate(STATES)}
MAILBOX_DELIVERIES = 1_000
MAILBOX_BYTES = 4 * 1024 * 1024
"""Below both, a mailbox of the default size cannot overflow."""
PUSH_BYTES = 600
"""The most bytes of a push of the simulator, besides its padding."""
LISTENING_SECONDS = 15.0
"""A device that hears for so long without a break has been given what waits for it: the longest drain of the built-in
scenarios after a mass return takes a third of that."""
MAX_ATTEMPTS = 10
"""The attempts of a server with default settings; each ends with the connection."""
CLOCK_SLACK_SECONDS = 0.2
"""The difference between our clock and the server's, which counts whole milliseconds and may be slewed."""
EARLY_SECONDS = 0.1
"""The time by which a ttl may be over before it is by our clock: the server's counts whole milliseconds."""


class Expectations:
    """The expected outcome of each push on each device. Sender and devices report, and `compare` ends it."""

    def __init__(self, ids: Sequence[str], clock_speed: float = 1.0) -> None:
        """`ids`: of the devices. `clock_speed`: of the server, whose seconds a ttl counts."""
        self._ids = ids
        self._speed = clock_speed
        self._everyone = range(len(ids))
        self._pushes: list[SentPush] = []
        self._found = Comparison()
        self._kinds: Counter[FindingKind] = Counter()
        self._newest: dict[tuple[int, str], float] = {}
        """Device and priority -> the latest request among those that have arrived."""
        self._online = bytearray(len(ids))
        self._away = bytearray(len(ids))
        self._spans: list[array[float] | None] = [None] * len(ids)
        """The times at which a device began and ceased to listen: start, end, start, .."""
        self._connected = array("d", (0.0,)) * len(ids)
        self._disconnected = array("d", (0.0,)) * len(ids)
        """The times at which a device last came (above) and last went."""
        self._left = array("d", (-inf,)) * len(ids)
        """The time at which the scenario last sent the device away."""
        self._dialled = array("d", (0.0,)) * len(ids)
        """The time at which the device last began to connect."""
        self._ends = array("I", (0,)) * len(ids)
        """Connections that have ended."""
        self._killed: list[float] = []
        self.shaped = False
        """True once a bad network was between the devices and the server."""
        self._absences: dict[int, list[tuple[float, float]]] = {}
        """The absences of devices that have sent a DISCONNECT: from then until they began to return."""
        self._numbers: dict[str, int] = {}
        """The push number of a push id."""
        self._returned_with = bytearray(len(ids))
        """The least urgent priority that came of what had waited, since it connected; 0: none yet."""
        self._hindered = bytearray(len(ids))
        """True for a device that was deaf or mute at some time."""
        self._sent_to = array("I", (0,)) * len(ids)
        self._bytes_to = array("Q", (0,)) * len(ids)
        self._of_key: dict[str, list[int]] = {}
        """Collapse key -> numbers of its pushes."""
        self.may_suppress: frozenset[str] = frozenset()
        """Reasons for which the app's own rules suppress."""
        self.departures = Departures()
        self.least_attempts = MAX_ATTEMPTS
        """Times that a device cannot have taken a push before the server gives it up."""
        self._events: list[tuple[str, dict[tuple[str, int], int], int]] = []
        """Source, what it told, the types that it was asked for."""

    # The sender says

    def sending(
        self,
        requested: float,
        targets: Sequence[int] | None,
        ttl: float,
        priority: str,
        collapse_key: str | None = None,
        size: int = 0,
        qos: int = 1,
        kind: str = "alert",
        channel: str | None = None,
    ) -> int:
        """The first request of a push is about to leave; its number. Targets None: everyone. `ttl` in seconds of the
        server's clock, `size` in bytes of padding."""
        to = self._everyone if targets is None else tuple(sorted(targets))
        number = len(self._pushes)
        self._pushes.append(SentPush(requested, to, ttl / self._speed, priority, collapse_key, qos, kind, channel))
        if collapse_key is not None:
            self._of_key.setdefault(collapse_key, []).append(number)
        for index in to:
            self._sent_to[index] += 1
            self._bytes_to[index] += size + PUSH_BYTES
        return number

    def accepted(self, number: int, push_id: str, answered: float, targeted: int) -> None:
        """Record that the server answered the request of a push with 202."""
        push = self._pushes[number]
        self._called(number, push, push_id)
        push.push_id = push_id
        self._numbers[push_id] = number
        push.answered = answered
        if targeted != len(push.targets):
            self._find("lost", number, -1, f"accepted for {targeted} devices; it was for {len(push.targets)}")
            self._found.lost += max(0, len(push.targets) - targeted)

    def repeated(self, number: int, push_id: str) -> None:
        """Record that the same request, repeated with its idempotency key, was answered with this push."""
        self._called(number, self._pushes[number], push_id)

    def refused(self, number: int, why: str) -> None:
        """The server does not want it, for good, though it is as the API has it."""
        push = self._pushes[number]
        push.refused = why

    # Devices say

    def named(self, number: int, index: int, push_id: str) -> None:
        """A push with this number arrived under this id, before any `arrived` of it."""
        push = self._pushes[number]
        self._called(number, push, push_id, index)
        if push.push_id is None:
            push.push_id = push_id
            self._numbers[push_id] = number

    def _called(self, number: int, push: SentPush, push_id: str, index: int = -1) -> None:
        if push.push_id is not None and push.push_id != push_id:
            self._found.duplicated += 1
            where = index if index >= 0 else self.only_target(number)
            self._find("duplicated", number, where, f"one request became two pushes: {push.push_id} and {push_id}")

    def only_target(self, number: int) -> int:
        """The device that a push is for; -1: there are several."""
        targets = self._pushes[number].targets
        return targets[0] if len(targets) == 1 else -1

    def arrived(self, number: int, index: int, when: float, expires_in: int | None = None) -> None:
        """Record that a push took effect on a device, for the first time. `expires_in`: seconds of the server's clock
        that it said."""
        push = self._pushes[number]
        place = push.place(index)
        if place < 0:
            self._found.disagreements += 1
            self._find("arrived_without_booking", number, index, "it arrived at a device that it was not for")
            return
        if expires_in is not None and push.ttl:
            self._check_expiry(number, index, push, when, expires_in)
        if push.arrivals[place] != NOT_ARRIVED:
            self.duplicated(number, index, when)
            return
        push.arrivals[place] = when
        key = (index, push.priority)
        newest = self._newest.get(key, 0.0)
        if newest > push.answered:
            self._found.out_of_order += 1
            late = newest - push.answered
            self._find("out_of_order", number, index, f"overtaken by one that was asked for {late:.3f} s after its 202")
        if push.requested > newest:
            self._newest[key] = push.requested
        self._drained(number, index, push, when)

    def _drained(self, number: int, index: int, push: SentPush, when: float) -> None:
        """Check that waiting pushes come by priority: those that a device has not been handed before its absence. That
        needs a device that has sent a DISCONNECT: to a connection that has died unseen something may have been handed
        over."""
        came = self._connected[index]
        sent_disconnect = self._sent_disconnect(index) and self._left[index] + DISCONNECT_SECONDS < push.requested
        if self._hindered[index] or not (sent_disconnect and push.answered < came <= when):
            return
        rank = PRIORITIES.index(push.priority) + 1
        if rank < self._returned_with[index]:
            self._found.out_of_order += 1
            before = PRIORITIES[self._returned_with[index] - 1]
            self._find("out_of_order", number, index, f"{push.priority} came after {before}; both had waited")
        self._returned_with[index] = max(rank, self._returned_with[index])

    def _check_expiry(self, number: int, index: int, push: SentPush, when: float, expires_in: int) -> None:
        """Check a push's `expires_in`. It was handed over after its device began to connect, and before `when`."""
        speed = self._speed
        if push.answered == inf or (speed != 1 and self._killed):  # a faster clock stands still while it is restarted
            return
        slack = 1 + CLOCK_SLACK_SECONDS * speed
        least = floor((push.requested + push.ttl - when) * speed - slack)
        begun = max(self._dialled[index], push.requested)
        most = ceil((push.answered + push.ttl - begun) * speed + slack)
        if not least <= expires_in <= most:
            self._found.late += 1
            self._find("late", number, index, f"expires_in said {expires_in}; it was {max(least, 0)} to {most}")

    def _sent_disconnect(self, index: int) -> bool:
        """True if a device's last connection ended with its DISCONNECT."""
        return self._left[index] <= self._disconnected[index] < self._left[index] + DISCONNECT_SECONDS

    def duplicated(self, number: int, index: int, when: float) -> None:
        """Record that a push took effect on a device once more."""
        self._found.duplicated += 1
        push = self._pushes[number]
        place = push.place(index)
        after = when - push.arrivals[place] if place >= 0 and push.arrivals[place] != NOT_ARRIVED else 0.0
        self._find("duplicated", number, index, f"it took effect again {after:.3f} s after the first time")

    def receipt_acknowledged(self, number: int, index: int, level: int) -> None:
        """The server has acknowledged to the device that somebody went so far."""
        push = self._pushes[number]
        place = push.place(index)
        if place >= 0:
            push.levels[place] = max(push.levels[place], level)

    def redelivered(self, number: int, index: int, when: float) -> None:
        """Record that a copy came, which its device dropped. None may when the device had acknowledged it and
        then sent a DISCONNECT: the acknowledgement came before that, and no kill took it."""
        self._found.redelivered += 1
        push = self._pushes[number]
        place, left = push.place(index), self._left[index]
        first = push.arrivals[place] if place >= 0 else NOT_ARRIVED
        if self._hindered[index] or self.shaped or any(killed > first for killed in self._killed):
            return
        if NOT_ARRIVED < first < left - DISCONNECT_SECONDS and left < when and self._sent_disconnect(index):
            self.violation(number, index, "it came again, acknowledged before the device said goodbye")

    def violation(self, number: int, index: int, what: str) -> None:
        """Record that the server broke the MQTT protocol."""
        self._found.violations += 1
        self._find("violation", number, index, what)

    def killed(self, when: float) -> None:
        """The server was."""
        self._killed.append(when)

    def online(self, index: int, when: float, dialled: float = 0.0) -> None:
        """Record that a device is connected. `dialled`: when it began to connect."""
        self._online[index] = 1
        if self._sent_disconnect(index) and not self._hindered[index]:
            self._absences.setdefault(index, []).append((self._disconnected[index], dialled))
        self._dialled[index] = dialled
        self._connected[index] = when
        self._returned_with[index] = 0
        self._update_listening(index, when)

    def offline(self, index: int, when: float) -> None:
        """Record that a device's connection ended."""
        self._online[index] = 0
        self._ends[index] += 1
        self._disconnected[index] = when
        self._update_listening(index, when)

    def away(self, index: int, when: float) -> None:
        """Record that the scenario keeps a device from receiving from now on."""
        self._away[index] = 1
        self._left[index] = when
        self._update_listening(index, when)

    def hindered(self, index: int) -> None:
        """The scenario has made it deaf or mute."""
        self._hindered[index] = 1

    def unanswered(self, number: int, index: int) -> None:
        """Record that a connected device still waits for the acknowledgement of a receipt at the end."""
        self._found.unanswered += 1
        self._find("unanswered", number, index, "the server never acknowledged a receipt of it")

    def back(self, index: int, when: float) -> None:
        """Record that the scenario lets a device receive again."""
        self._away[index] = 0
        self._update_listening(index, when)

    def _update_listening(self, index: int, when: float) -> None:
        spans = self._spans[index]
        if spans is None:
            spans = self._spans[index] = array("d")
        heard = len(spans) % 2 == 1
        if heard != bool(self._online[index] and not self._away[index]):
            spans.append(when)

    # The server says

    def pushes(self) -> list[tuple[int, str]]:
        """Numbers and ids of those that were accepted, or arrived without an answer to their request."""
        return [(number, push.push_id) for number, push in enumerate(self._pushes) if push.push_id is not None]

    def recent_push(self, back: int) -> tuple[int, str | None]:
        """Number and id of the push so many before the newest; no id: it has none, or there are not so many."""
        number = len(self._pushes) - 1 - back
        return number, self._pushes[number].push_id if number >= 0 else None

    def sent_with(self, number: int) -> tuple[float, int]:
        """The ttl of a push, in seconds of the server's clock, and its QoS."""
        push = self._pushes[number]
        return round(push.ttl * self._speed), push.qos

    def record_states(
        self,
        number: int,
        deliveries: Iterable[tuple[int, str, str | None]],
        read_at: float = inf,
        ended_after: Mapping[int, float] | None = None,
    ) -> None:
        """Device, state and reason of each delivery, so far; -1 is a device that is none of ours. `read_at`: when the
        server was asked. `ended_after`: by device, when it ended, in seconds of the server's since the acceptance."""
        push = self._pushes[number]
        push.read_at = read_at
        for index, state, reason in deliveries:
            place = push.place(index)
            if place < 0:
                self._found.disagreements += 1
                self._find(
                    "booked_without_arrival", number, index, f"the server lists it as {state}; it was not for it"
                )
            else:
                push.states[place] = _CODES.get(state, 0)
                if state == "overflowed" and ended_after is not None and index in ended_after:
                    push.ended_after[place] = ended_after[index] / self._speed
                if reason:
                    push.reasons = push.reasons or {}
                    push.reasons[place] = reason
                if state in ENDED and not reason:
                    self._find("lost", number, index, f"the server says {state} and gives no reason")
                    self._found.lost += 1

    def is_gone(self, index: int, since: float) -> bool:
        """Whether a device has sent a DISCONNECT before that time, and has not come back."""
        return not self._online[index] and self._sent_disconnect(index) and self._disconnected[index] < since

    def check_mailbox(self, index: int, listed: Sequence[str], asked: tuple[float, float]) -> None:
        """Compare the server's list of what waits for a device that has disconnected. `asked`: start and end of the
        request."""
        if index in self.departures:
            return  # what waited has ended, or is about to
        if self.is_gone(index, asked[0]) and not (self._hindered[index] or self.shaped or self.may_suppress):
            may_overflow = not self._has_room(index)
            went = self._disconnected[index]
            for number, what in mailbox_mistakes(self._pushes, self._numbers, index, listed, went, asked, may_overflow):
                self.contradicts(number, index, what)

    def _has_room(self, index: int) -> bool:
        """True if a device's mailbox cannot have been full, whatever waited in it."""
        return self._sent_to[index] < MAILBOX_DELIVERIES and self._bytes_to[index] < MAILBOX_BYTES

    def contradicts(self, number: int, index: int, what: str) -> None:
        """Answers of the server do not agree with each other, or with what is plain to see. -1: not of one push, not of
        one device."""
        self._found.contradictions += 1
        self._find("contradiction", number, index, what)

    def misses_events(self, received: dict[tuple[str, int], int], types: Sequence[str]) -> bool:
        """Whether a source that was asked for `types` still owes the last state of some delivery."""
        asked = sum(BITS[name] for name in types)
        bits = [BITS.get(f"delivery.{state}", 0) & asked for state in STATES]
        return any(
            bits[push.states[place]] and not received.get((push.push_id, index), 0) & bits[push.states[place]]
            for push in self._pushes
            if push.push_id is not None
            for place, index in enumerate(push.targets)
        )

    def record_events(self, source: str, received: dict[tuple[str, int], int], types: Sequence[str]) -> None:
        """Record the event types that a source delivered, by (push id, device), as `event_observer.BITS`. It had asked
        for `types`."""
        self._events.append((source, received, sum(BITS[name] for name in types)))

    def event_complaint(self, what: str, push_id: str = "", index: int = -1) -> None:
        """Record an event that must not be."""
        self._found.events_wrong += 1
        self._find("event", self._numbers.get(push_id, -1), index, what)

    # The comparison

    def compare(self, grace: float) -> Comparison:
        """Once, at the end. `grace`: seconds that a push may be under way after its hand-over."""
        found = self._found
        found.people_left = len(self.departures)
        if not self.shaped:
            for index in {push.targets[place] for push in self._pushes for place in push.ended_after}:
                for number, what in wrong_evictions(self._pushes, index, self._absences.get(index, ())):
                    found.unexplained += 1
                    self._find("ended_without_cause", number, index, what)
        for number, push in enumerate(self._pushes):
            if push.refused:
                self.contradicts(number, self.only_target(number), f"a valid push, number {number}: {push.refused}")
            if push.push_id is None:
                continue
            found.accepted += 1
            found.deliveries += len(push.targets)
            deadline = push.answered + push.ttl + grace
            for place, index in enumerate(push.targets):
                when = push.arrivals[place]
                state = STATES[push.states[place]]
                found.server_states[state] += 1
                if when != NOT_ARRIVED:
                    self._check_arrival(number, index, push, state, push.levels[place])
                    self._check_earlier_end(number, index, push, place)
                    self._check_left(number, index, push)
                    if when > deadline:
                        found.late += 1
                        self._find(
                            "late", number, index, f"it took effect {when - deadline + grace:.3f} s after its end"
                        )
                    self._check_supersession(number, index, push, when)
                else:
                    self._check_absence(number, index, push, state)
                told = [
                    (source, received.get((push.push_id, index), 0), asked) for source, received, asked in self._events
                ]
                for one in told:
                    self._check_events(number, index, state, (push.reasons or {}).get(place), *one)
                self._compare_sources(number, index, told)
        return found

    def _check_arrival(self, number: int, index: int, push: SentPush, state: str, level: int) -> None:
        found = self._found
        found.delivered += 1
        if state == "suppressed" and self.departures.reason(index, push) is not None and not push.refused:
            self._found.ended[state] += 1  # it was in flight: acknowledged too late, it ended as the others
            return
        booked = 0 if state == "sent" and not push.qos else LEVELS.get(state)
        if push.refused:
            found.disagreements += 1
            self._find("arrived_without_booking", number, index, f"it took effect: {push.refused}")
        elif booked is None:
            found.disagreements += 1
            self._find("arrived_without_booking", number, index, f"it took effect; the server says {state}")
        elif booked != level:
            found.disagreements += 1
            kind: FindingKind = "arrived_without_booking" if booked < level else "booked_without_arrival"
            said = next(name for name, value in LEVELS.items() if value == level)
            self._find(kind, number, index, f"the device has said {said}, the server says {state}")

    def _check_absence(self, number: int, index: int, push: SentPush, state: str) -> None:
        found = self._found
        if state in ENDED:
            found.ended[state] += 1
            if complaint := self._no_cause(number, index, push, state):
                found.unexplained += 1
                self._find("ended_without_cause", number, index, complaint)
            elif state == "expired" and self._was_listening(index, push.requested, push.answered + push.ttl):
                found.expired_online += 1
                self._find("expired_online", number, index, "it expired, and the device was online long enough")
            return
        if state == "sent" and not push.qos and not self._was_listening(index, push.requested, push.read_at, inf):
            found.ended[state] += 1  # at most once: it went to a connection that has ended
            return
        found.lost += 1
        if state in ARRIVED:
            found.disagreements += 1
            self._find("booked_without_arrival", number, index, f"the server says {state}; the device never had it")
        else:
            self._find("lost", number, index, f"it never arrived; the server says {state}")

    def _check_earlier_end(self, number: int, index: int, push: SentPush, place: int) -> None:
        """Check the cause of the end that the server noted for a push which arrived after all."""
        end = (push.reasons or {}).get(place, "").removeprefix("after_")
        if end in ENDED and (complaint := self._no_cause(number, index, push, end, after=True)):
            self._found.unexplained += 1
            self._find("ended_without_cause", number, index, f"before it arrived {complaint}")

    def _no_cause(self, number: int, index: int, push: SentPush, state: str, after: bool = False) -> str | None:
        """The reason for which a delivery cannot have ended so, in words; None when it can. `after`: its own reason is
        not known."""
        reason = (push.reasons or {}).get(push.place(index), "")
        if state == "expired":
            early = push.requested + push.ttl - EARLY_SECONDS - push.read_at
            return f"it had expired {early:.1f} s before its ttl was over" if early > 0 else None
        if state == "superseded":
            newer = newer_push(self._pushes, self._of_key.get(push.collapse_key or "", []), number, index)
            return None if newer is not None else "it was superseded, and no later push has its collapse key"
        if state == "overflowed":
            few = self._has_room(index)
            return f"it overflowed; only {self._sent_to[index]} pushes were ever sent to this device" if few else None
        if state == "refused":
            known = (after or reason == "not_acknowledged") and self._ends[index] >= self.least_attempts
            ends = f"the device has refused nothing, and lost its connection {self._ends[index]} times"
            return None if known else f"it was refused ({reason}); {ends}"
        left = self.departures.reason(index, push)
        if state == "suppressed" and left is not None and (after or reason == left):
            return None
        if state == "suppressed" and (reason in self.may_suppress or (after and self.may_suppress)):
            return None
        return f"it was {state} ({reason}); nobody asked for that"

    def _check_left(self, number: int, index: int, push: SentPush) -> None:
        """Check that nothing came which was asked for after the server knew that its person did not want it."""
        late = self.departures.seconds_late(index, push)
        if late > 0:
            self._found.unexplained += 1
            self._find("ended_without_cause", number, index, f"it arrived; its person had left {late:.3f} s before it")

    def _check_supersession(self, number: int, index: int, push: SentPush, when: float) -> None:
        if push.collapse_key is None or self._hindered[index]:
            return
        spans = self._spans[index] or ()
        begins = [spans[start] for start in range(0, len(spans), 2) if spans[start] <= when]
        numbers = self._of_key[push.collapse_key]
        for later in numbers[bisect_left(numbers, number) + 1 :]:
            newer = self._pushes[later]
            if newer.requested > push.answered and newer.place(index) >= 0:
                if begins and newer.answered < begins[-1]:
                    self._found.unexplained += 1
                    told = f"push {newer.push_id} had its collapse key and was accepted before the device came"
                    self._find("not_superseded", number, index, told)
                return

    def _check_events(
        self, number: int, index: int, state: str, reason: str | None, source: str, told: int, asked: int
    ) -> None:
        last = BITS.get(f"delivery.{state}", 0)
        if last & asked and not told & last:
            self._found.events_wrong += 1
            self._find("event", number, index, f"{source} never told that it is {state}")
        may = last | BITS["delivery.sent"]
        if state in ARRIVED:
            furthest = ARRIVED.index(state)
            may |= sum(BITS[f"delivery.{one}"] for one in ARRIVED[: furthest + 1])
        if reason is not None:
            may |= BITS.get(f"delivery.{reason.removeprefix('after_')}", 0)
        if told & ~may:
            false = [name for name in TYPES if BITS[name] & told & ~may]
            self._found.events_wrong += 1
            self._find("event", number, index, f"{source} told {', '.join(false)}; it is {state}")

    def _compare_sources(self, number: int, index: int, told: Sequence[tuple[str, int, int]]) -> None:
        """Compare the events of sources that were asked for the same types."""
        for source, bits, _ in told:
            for other, others, asked in told:
                if missing := bits & asked & ~others:
                    names = ", ".join(name for name in TYPES if BITS[name] & missing)
                    self._found.events_wrong += 1
                    self._find("event", number, index, f"{other} never told {names}, as {source} did")

    def _was_listening(self, index: int, begin: float, end: float, enough: float = LISTENING_SECONDS) -> bool:
        return was_listening(self._spans[index] or (), begin, end, enough)

    def _find(self, kind: FindingKind, number: int, index: int, detail: str) -> None:
        """The first of each kind are written out, so that one kind cannot crowd out another."""
        self._kinds[kind] += 1
        if self._kinds[kind] <= MAX_FINDINGS // 8:
            push_id = self._pushes[number].push_id if number >= 0 else None
            device_id = self._ids[index] if index >= 0 else ""
            self._found.findings.append(Finding(kind=kind, push_id=push_id or "", device_id=device_id, detail=detail))
