"""One vocabulary, checked by reading the source: class names, verbs, units of constants and times, first lines of
docstrings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.test_architecture import MODULES, PACKAGES, trees, within

SHARED_CLASS_NAMES: dict[str, str] = {}
"""`package.Name` of a name that two public classes of a package may share, and why."""

NUMBERS_WITHOUT_UNIT = {
    "broker.events.ACKNOWLEDGED": "an outcome",
    "broker.events.COMPLETED": "an outcome",
    "broker.events.LOST": "an outcome",
    "broker.events.MOVED": "an outcome",
    "broker.events.UNHANDLED": "an outcome",
    "broker.forwarding.RETAIN_FLAG": "a bit of the fixed header",
    "broker.inflight": "phases of a message",
    "broker.network.listen_address.OWNER_ONLY": "a file mode",
    "broker.packet_ids.LAST_PACKET_ID": "an identifier",
    "broker.protocol.packets": "protocol versions, as CONNECT has them",
    "broker.router": "bits of subscription options",
    "broker.sqlite_store.EXIT_UNSYNCED": "an exit code",
    "gateway.app.EXIT_LATER": "an exit code",
    "gateway.app.EXIT_LEASE_LOST": "an exit code",
    "gateway.app.EXIT_REFUSED": "an exit code",
    "gateway.store.postgresql.schema.LEAST_MAJOR_VERSION": "a version",
    "gateway.store.postgresql.upgrade.PREPARING_LOCK": "the number of a lock",
    "broker.sqlite_tables.SCHEMA_VERSION": "a version",
    "broker.outbound.DUP_FLAG": "a bit of the fixed header",
    "gateway.audit_evidence.FORMAT_VERSION": "a version",
    "gateway.backup_archive.FORMAT_VERSION": "a version",
    "gateway.backup_archive.GZIP_LEVEL": "a level of compression",
    "gateway.cli.backups.LOW_PRIORITY": "a niceness",
    "gateway.kept_ledger.FICLONE": "a number of the kernel's interfaces",
    "gateway.cli.kiosk.DEFAULT_PORT": "a TCP port",
    "gateway.host_names": "numbers of the kernel's interfaces",
    "client_sim.backoff": "reason codes",
    "client_sim.journal.SCHEMA_VERSION": "a version",
    "client_sim.simulator.comparison.NOT_ARRIVED": "a mark among times",
    "client_sim.simulator.sender.ACCEPTED": "an HTTP status",
    "client_sim.simulator.human_behaviour.LEFT": "a mark among levels",
    "client_sim.simulator.simulated_device.DUP": "a bit of the fixed header",
    "client_sim.simulator.simulated_device.NO_PUSH": "a mark among numbers of pushes",
    "client_sim.simulator.simulated_device.REFUSED": "a reason code",
    "client_sim.simulator.simulated_device.SUBSCRIBE_ID": "a packet identifier",
    "gateway.audience.policy.CRITICAL": "an index of PRIORITIES",
    "gateway.store.deliveries.app_slices.EVERY_DEVICE": "an end of a range of device numbers",
    "gateway.store.deliveries.event_log.END_OF_ENTRY": "a place",
    "gateway.store.analytics.funnels.LAST_DEVICE": "an end of a range of device numbers",
    "gateway.delivery_handles.DEVICE_MASK": "a mask",
    "gateway.delivery.heartbeat_states.SERVER_APP": "a number that stands for an app",
    "gateway.store.plans.campaigns.HOLDOUT": "a number that stands for a group",
    "gateway.socket_activation.FIRST_DESCRIPTOR": "a file descriptor",
    "gateway.store.ledger_file.INCREMENTAL": "a mode of auto_vacuum",
}
"""Public numeric constants, or modules of them, that count and measure nothing."""

TIMES_OF_ANOTHER_UNIT: dict[str, str] = {
    "gateway.api.admission": "seconds of the loop",
    "gateway.api.body_budget": "seconds of the loop",
    "gateway.api.connection_limiter": "seconds of the loop",
    "gateway.api.request_turns": "seconds of the loop",
    "gateway.cli.bridge.bridge": "seconds of the monotonic clock",
    "gateway.cli.bridge.message_pushes": "seconds of the monotonic clock",
    "gateway.certificates": "a datetime, as certificates have them",
    "gateway.cli.doctor": "a datetime, and the seconds of two clocks",
    "gateway.cli.tls": "a datetime, as certificates have them",
    "gateway.disk_space": "seconds of the loop",
    "gateway.measurements": "seconds of a monotonic clock",
    "gateway.enrolment.components": "seconds of the loop",
    "gateway.enrolment.guesses": "seconds of the loop",
    "gateway.nodes.components": "seconds of the loop",
    "gateway.nodes.peer_client": "seconds of the loop",
    "gateway.nodes.sent_deliveries": "seconds of the loop",
    "gateway.people.components": "seconds of the loop",
    "gateway.people.identity_provider": "seconds of the loop",
    "gateway.people.oidc_sign_in": "seconds of the wall clock, as ID tokens have them",
    "gateway.nodes.membership": "seconds of CLOCK_BOOTTIME",
    "gateway.metrics": "seconds, as Prometheus has them",
    "gateway.replacement": "a text, in a file's name",
    "gateway.store.read_queue": "seconds of a monotonic clock",
    "gateway.startup": "the broker's clock: seconds",
    "gateway.watchdog": "seconds of the loop",
}
"""Modules of the gateway that use `now` or `clock` for something else than milliseconds, and why."""

PLAIN_UNITS = {"MS", "SHARE", "FACTOR", "DIVISOR", "RATIO", "PERCENT"}
NOT_PLURAL = {"QOS", "ALIAS", "STATUS", "TLS", "WS", "SYS", "DNS", "AS", "IS", "HAS", "ALWAYS", "PREVIOUS"}

VAGUE_VERBS = re.compile(
    r"_*(look|looks|looked|settle|settles|settled|judge|judges|judged|hold|holds|held|say|says|said|take|takes|taken"
    r"|leave)(_(?!(up|over)(_|$))|$)"
)
"""Names of functions by verbs that fit nine things each. A look-up and a take-over are words of the field."""

FRAGMENTS = re.compile(
    r"(Of|What|Whatever|Who|Whoever|Whom|Whose|Which|Whichever|Where|Wherever|When|While|Why|How|That|This|Those|These"
    r"|As|For|From|In|On|At|By|To|With|Without|After|Before|Until|Under|Between|If|So|And|Or|But|Not|Never|Nothing"
    r"|Nobody|None|No|It|Its|They|There|Here|Something|Somebody|Everybody|Anybody|Perhaps|Up|Likewise|Also|Else"
    r"|The same|The rest|The other|The others|The way|Those of|Such)\b"
)
"""Beginnings of a first line that its neighbours, or the signature, would have to complete."""
WRONG_ARTICLE = re.compile(
    r"\b[Aa]n (?!fsync|hour|honest)[bcdfghjklmnpqrstvwyz][a-z_]{3,}|\b[Aa] (?!eu|on[ce])[aeio][a-z_]{3,}"
)
"""An article with a word of four letters or more that asks for the other one."""


def public(name: str) -> bool:
    return not name.startswith("_")


def modules_of(package: str) -> list[str]:
    return [name for name in MODULES if within(name, package)]


def classes(body: list[ast.stmt]) -> Iterator[ast.ClassDef]:
    """Public classes of a module, those inside public classes included."""
    for node in body:
        if isinstance(node, ast.ClassDef) and public(node.name):
            yield node
            yield from classes(node.body)


@cache
def numeric_constants(module: str) -> dict[str, str]:
    """Name, by the name's full path, of each public number at the level of the module or of a class; enums aside."""
    found: dict[str, str] = {}

    def is_number(node: ast.expr) -> bool:
        match node:
            case ast.Constant(value=bool()):
                return False
            case ast.Constant(value=int() | float()):
                return True
            case ast.BinOp(left=left, right=right):
                return is_number(left) and is_number(right)
            case ast.UnaryOp(operand=operand):
                return is_number(operand)
            case ast.Name(id=name):
                return name in found.values()
        return False

    def walk(body: list[ast.stmt], path: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not any(re.search("Enum|Flag", ast.unparse(b)) for b in node.bases):
                walk(node.body, f"{path}.{node.name}")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            for target in targets:
                named = isinstance(target, ast.Name) and re.fullmatch("[A-Z][A-Z0-9_]*", target.id)
                if isinstance(target, ast.Name) and named and value is not None and is_number(value):
                    found[f"{path}.{target.id}"] = target.id

    walk(trees()[module].body, module)
    return found


def has_unit(constant: str) -> bool:
    """More than one word, and one of them says what is counted or measured: a plural (BYTES, ROWS), MS, a share."""
    words = constant.split("_")
    plurals = (w.endswith("S") and not w.endswith("SS") and w not in NOT_PLURAL and len(w) > 2 for w in words)
    return len(words) > 1 and (any(plurals) or any(word in PLAIN_UNITS for word in words))


def documented(module: str) -> Iterator[tuple[str, str]]:
    """The public things of a module that have a docstring: name and docstring."""

    def walk(
        node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, path: str
    ) -> Iterator[tuple[str, str]]:
        text = ast.get_docstring(node)
        if text:
            yield path, text
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and public(child.name):
                yield from walk(child, f"{path}.{child.name}")

    return walk(trees()[module], module)


def stands_alone(docstring: str) -> bool:
    """Its first line has a whole sentence, of two words at least, that does not begin as a fragment does."""
    first_line = docstring.splitlines()[0]
    sentence = re.match(r".*?([.!?](?=[\s)]|$)|:$)", first_line)
    return sentence is not None and " " in sentence[0] and not FRAGMENTS.match(first_line)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_public_classes_of_a_package_share_a_name(package: str) -> None:
    places: dict[str, list[str]] = {}
    for module in modules_of(package):
        for node in classes(trees()[module].body):
            places.setdefault(node.name, []).append(module)
    shared = {name: modules for name, modules in places.items() if len(modules) > 1}
    allowed = {name.split(".")[1] for name in SHARED_CLASS_NAMES if within(name, package)}
    assert {name: modules for name, modules in shared.items() if name not in allowed} == {}
    assert allowed <= set(shared), "an exception that nothing needs any more"


@pytest.mark.parametrize("package", PACKAGES)
def test_verbs_say_what_happens(package: str) -> None:
    names = (
        f"{module}.{node.name}"
        for module in modules_of(package)
        for node in ast.walk(trees()[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and VAGUE_VERBS.match(node.name)
    )
    assert sorted(names) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_numbers_carry_their_unit(package: str) -> None:
    bare = {
        path for module in modules_of(package) for path, name in numeric_constants(module).items() if not has_unit(name)
    }
    assert sorted(path for path in bare if not within(path, *NUMBERS_WITHOUT_UNIT)) == []
    listed = [row for row in NUMBERS_WITHOUT_UNIT if within(row, package)]
    assert [row for row in listed if not any(within(path, row) for path in bare)] == [], "exceptions that nothing needs"


def times(module: str, names: set[str]) -> Iterator[str]:
    """Parameters, variables and attributes of these names that the module defines."""
    for node in ast.walk(trees()[module]):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                if name.lstrip("_") in names:
                    yield f"{module}: {name}, line {node.lineno}"


def test_times_of_the_gateway_are_milliseconds_and_say_so() -> None:
    """`now` and `clock` are seconds, as in the broker and in Python; milliseconds are `now_ms` and `clock_ms`."""
    found = {module: list(times(module, {"now", "clock"})) for module in modules_of("gateway")}
    assert [place for module, places in found.items() if module not in TIMES_OF_ANOTHER_UNIT for place in places] == []
    assert [module for module in TIMES_OF_ANOTHER_UNIT if not found.get(module)] == [], "exceptions nothing needs"


def test_times_of_the_broker_are_seconds() -> None:
    """`now` and `clock`, without a suffix, because there is no other unit: no name of a time says another one."""
    names = (
        name
        for module in modules_of("broker")
        for node in ast.walk(trees()[module])
        for name in [getattr(node, "arg", None) or getattr(node, "id", None) or getattr(node, "attr", None)]
    )
    assert [
        name for name in names if isinstance(name, str) and re.search(r"_(ms|millis\w*)$", name, re.IGNORECASE)
    ] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_first_line_of_a_docstring_stands_alone(package: str) -> None:
    texts = (found for module in modules_of(package) for found in documented(module))
    assert [f"{path}: {text.splitlines()[0]}" for path, text in texts if not stands_alone(text)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_articles_fit_the_words_that_a_rename_put_behind_them(package: str) -> None:
    """An outlet is renamed, and is a handle: nobody reads all the sentences that a script has changed."""
    texts = ((name, MODULES[name].read_text()) for name in modules_of(package))
    assert [f"{name}: {found[0]}" for name, text in texts for found in WRONG_ARTICLE.finditer(text)] == []


def test_the_laws_find_what_they_are_for() -> None:
    assert not any(map(has_unit, ["TURN", "PAGES", "MAX_HEADER", "AT_ONCE", "KEY_PER_ADDRESS"]))
    assert all(map(has_unit, ["SWEEP_SECONDS", "PAGE_BYTES", "LOG_MS", "ROWS_PER_STATEMENT", "APP_SHARE"]))
    assert all(map(VAGUE_VERBS.match, ["look", "_judge_next", "take_victim", "held"]))
    assert not any(map(VAGUE_VERBS.match, ["look_up", "_look_up_topic", "take_over", "holder", "left", "takeover"]))
    fragments = ["Of one app.", "The same of handles.", "Who gets it.", "What a session sends.", "Loop."]
    assert not any(map(stands_alone, [*fragments, "A sentence that begins here and ends on the\nnext line."]))
    assert stands_alone("Suppress waiting deliveries, at most SLICE_ROWS per call.")
    assert all(map(WRONG_ARTICLE.search, ["an deliver_to is bound", "A outlet of the engine"]))
    assert not any(map(WRONG_ARTICLE.search, ["an fsync", "an hour", "a once-only push", "A on its way", "an outlet"]))
