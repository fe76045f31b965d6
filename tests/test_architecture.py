"""The walls, checked by reading the source: who imports whom, what touches I/O, what the documents must name.

A wall that only prose defends is gone after ten commits. Nothing here runs the code it judges, but for the two
catalogues (settings, error codes) that it compares with the documents.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("broker", "gateway", "client_sim")

BELOW_THE_IO_LINE = (
    "broker.clock",
    "broker.compiled_modules",
    "broker.group_commit",
    "broker.log_format",
    "broker.log_writer",
    "broker.program",
    "broker.sqlite_file",
    "broker.sqlite_store",
    "broker.sqlite_tables",
    "broker.network",
    "broker.command",
    "broker.__main__",
)
"""Everything else in `broker` takes bytes and `now` (law 4)."""
WRITES_OF_EVERY_APP = {
    "gateway.delivery.acceptance.Acceptance.store_made",
    "gateway.delivery.device_connections.DeviceConnections.recover",
    "gateway.delivery.escalations.Escalations._clear_next",
    "gateway.delivery.fatigue.Fatigue._close",
    "gateway.delivery.fatigue.Fatigue._follow",
    "gateway.delivery.fatigue.Fatigue._pass_over",
    "gateway.delivery.fatigue.Fatigue.load",
    "gateway.delivery.heartbeats.Heartbeats.load",
    "gateway.delivery.ledger.Ledger.recover",
    "gateway.delivery.retention.Retention._close_finished",
    "gateway.delivery.retention.Retention.run",
    "gateway.plans.campaigns.Campaigns.remove_old",
    "gateway.plans.schedule_runner.ScheduleRunner.remove_ended",
}
"""What still says nothing of the apps whose rows it writes, and so stops every node for a moment (decision 10). It only
shrinks: a new write says its apps, or `EVERY_APP` if they are all."""
IO_MODULES = {
    "asyncio", "concurrent", "multiprocessing", "os", "queue", "select", "selectors", "signal", "socket", "sqlite3",
    "ssl", "subprocess", "threading", "time", "uvloop",
}  # fmt: skip

MAY_IMPORT_BROKER = (
    "gateway.delivery.engine",
    "gateway.auth",
    "gateway.backup",
    "gateway.backup_archive",
    "gateway.backup_proof",
    "gateway.downgrade",
    "gateway.startup",
    "gateway.app",
    "gateway.composition",
    "gateway.listener_config",
    "gateway.nodes.components",
    "gateway.nodes.session_duty",
    "gateway.nodes.takeover",
    "gateway.store.nodes.broker_sessions",
    "gateway.store.nodes.brought_sessions",
    "gateway.store.postgresql.session_store",
)
OPEN_TO_THE_GATEWAY = ("broker.clock", "broker.compiled_modules", "broker.sqlite_file")
MAY_IMPORT_CLIENT_SIM = ("gateway.cli",)

GATEWAY_LAYERS = (
    (
        "audit_chain",
        "data_directory",
        "delivery_handles",
        "delivery_states",
        "described_model",
        "device_topics",
        "errors",
        "hangup",
        "host_names",
        "latency",
        "merge_patch",
        "misspelling",
        "names",
        "pages",
        "periodic",
        "printable",
        "program",
        "service_manager",
        "timestamps",
        "watchdog",
    ),
    ("roles",),
    (
        "age_encryption",
        "audit_evidence",
        "backup_contents",
        "backup_record",
        "certificates",
        "disk_space",
        "health_check",
        "kept_ledger",
        "replacement",
        "scratch_folder",
        "settings",
        "socket_activation",
    ),
    ("deploy",),
    ("store",),
    ("token_lifetimes",),
    ("auth",),
    ("keys", "metrics_key", "minute_counts"),
    ("audience",),
    ("content",),
    ("delivery",),
    ("delivery_components",),
    ("devices",),
    ("bulk_changes",),
    ("enrolment",),
    ("plans",),
    ("events",),
    ("audit",),
    ("people",),
    ("nodes",),
    ("node_components",),
    ("api",),
    ("measurements",),
    ("metrics",),
    ("overview",),
    ("listener_config",),
    ("startup",),
    ("composition",),
    ("app",),
    ("backup_archive",),
    ("backup",),
    ("backup_proof", "downgrade"),
    ("backup_schedule",),
    ("cli",),
    ("__main__",),
)
"""From the lowest up; a component imports from the layers below its own, and from nothing else. So a folder has a layer
of its own, and no two import each other."""

ABOUT_A_FILE_OF_SQLITE = (
    "gateway.backup",
    "gateway.backup_archive",
    "gateway.backup_contents",
    "gateway.downgrade",
    "gateway.kept_ledger",
)
"""Copies, proofs and replacements of the file itself."""

MODULE_LINES = 600
LONGER_BY_DESIGN = {
    "broker.protocol.codec": 1_000,
    "broker.connection": 810,
    "broker.outbound": 780,
}
"""The codec: both versions and both directions of the wire in one sitting. The others name every statement of both
standards where they obey it, which takes sixty lines of either."""


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    inside_function: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"

    def of(self, *names: str) -> bool:
        return within(self.imported, *names)


def within(module: str, *names: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def sources() -> dict[str, Path]:
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            modules[name.removesuffix(".__init__")] = path
    return modules


MODULES = sources()


@cache
def trees() -> dict[str, ast.Module]:
    """Parsed when a wall is checked: every process of a run collects this file, and one or two check walls."""
    return {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def imports_of(name: str) -> Iterator[Import]:
    def walk(node: ast.AST, inside: bool, types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(name, alias.name, inside, types)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}: imports are absolute here"
                assert child.module is not None, "an absolute import names a module"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield Import(name, full if full in MODULES else child.module, inside, types)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, inside or function, types or guard)

    return walk(trees()[name], False, False)


@cache
def imports() -> list[Import]:
    return [found for name in MODULES for found in imports_of(name)]


def complaints(wrong: Iterator[Import]) -> list[str]:
    return sorted({str(found) for found in wrong})


def test_the_broker_imports_nothing_of_ours() -> None:
    assert not complaints(i for i in imports() if within(i.importer, "broker") and i.of("gateway", "client_sim"))


def test_a_device_imports_nothing_of_the_simulator() -> None:
    """Who installs a device gets the device: the simulator needs packages that a kiosk has no use for."""
    device = (i for i in imports() if within(i.importer, "client_sim") and i.of("client_sim.simulator"))
    command = "client_sim.__main__"
    assert not complaints(i for i in device if not within(i.importer, "client_sim.simulator", command))


def packages_of_others(*importers: str) -> set[str]:
    """The packages, neither of Python nor of ours, that are loaded with these modules."""
    loaded = (i for i in imports() if i.importer in importers and not (i.inside_function or i.for_types_only))
    return {i.imported.split(".")[0] for i in loaded} - {*sys.stdlib_module_names, *PACKAGES}


def test_a_device_needs_two_packages() -> None:
    """Those that `pip install fleetpush` gives; the packets of `testing` need none. Signatures are an extra, and the
    device loads them for a program that wants them."""
    others = ("client_sim.simulator", "client_sim.signatures", "client_sim.trust")
    device = [name for name in MODULES if within(name, "client_sim") and not within(name, *others)]
    packets = [name for name in MODULES if within(name, "broker.protocol")]
    assert packages_of_others(*device, *packets) == {"paho", "httpx2"}
    assert packages_of_others("client_sim.signatures", "client_sim.trust") == {"joserfc"}
    loaded = (i for i in imports() if i.importer in device and i.of("client_sim.signatures", "client_sim.trust"))
    assert not complaints(i for i in loaded if not i.for_types_only)


def test_a_command_without_its_extra_can_say_so() -> None:
    assert not packages_of_others("broker.__main__", "client_sim.__main__", "gateway.__main__", "gateway.program")


def test_the_simulator_borrows_the_wire_protocol_and_nothing_else() -> None:
    ours = (i for i in imports() if within(i.importer, "client_sim") and i.of("gateway", "broker"))
    assert not complaints(i for i in ours if not i.of("broker.protocol"))


def test_the_gateway_meets_the_broker_at_the_seam() -> None:
    users = (
        i for i in imports() if within(i.importer, "gateway") and i.of("broker") and not i.of(*OPEN_TO_THE_GATEWAY)
    )
    assert not complaints(i for i in users if i.importer not in MAY_IMPORT_BROKER)


def test_only_commands_import_the_simulator_and_only_when_run() -> None:
    users = [i for i in imports() if within(i.importer, "gateway") and i.of("client_sim")]
    assert not complaints(i for i in users if not within(i.importer, *MAY_IMPORT_CLIENT_SIM))
    assert not complaints(i for i in users if not i.inside_function and not i.for_types_only)


def test_no_io_above_the_line() -> None:
    ours = (i for i in imports() if within(i.importer, "broker") and i.importer != "broker")  # it chooses a form of it
    above = [i for i in ours if not within(i.importer, *BELOW_THE_IO_LINE)]
    assert not complaints(i for i in above if i.imported.split(".")[0] in IO_MODULES)
    assert not complaints(i for i in above if i.of(*BELOW_THE_IO_LINE))


def test_the_wire_protocol_needs_nothing_else_of_the_broker() -> None:
    inside = (i for i in imports() if within(i.importer, "broker.protocol") and i.of("broker"))
    assert not complaints(i for i in inside if not i.of("broker.protocol"))


def layer_of(module: str) -> int:
    component = module.split(".")[1] if "." in module else ""
    for number, components in enumerate(GATEWAY_LAYERS):
        if component in components:
            return number
    raise AssertionError(f"{module}: give it a layer in GATEWAY_LAYERS")


def test_gateway_rooms_import_downwards() -> None:
    """Inside functions and for types as well: a reader of one layer has to know those below it, and no other."""
    inside = (i for i in imports() if within(i.importer, "gateway") and i.of("gateway"))
    named = (i for i in inside if "gateway" not in (i.importer, i.imported))
    between = (i for i in named if i.importer.split(".")[1] != i.imported.split(".")[1])
    assert not complaints(i for i in between if layer_of(i.imported) >= layer_of(i.importer))


def test_no_module_imports_itself_through_others() -> None:
    """Not for types either, and not within a function: a circle is a circle for whoever reads it."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in imports():
        if found.imported in MODULES:
            graph[found.importer].add(found.imported)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_only_terminal_modules_import_terminal_libraries(library: str) -> None:
    simulator = ("command", "simulation_progress", "text_report")
    modules = ("gateway.cli", *(f"client_sim.simulator.{module}" for module in simulator))
    assert not complaints(i for i in imports() if i.of(library) and not within(i.importer, *modules))


def test_certificates_are_made_in_one_module_that_commands_load_when_run() -> None:
    """`cryptography` takes 50 ms to load: more than a command that has nothing to do with it."""
    hashes = "broker.network.password_hashes"  # Argon2id, for files that have it
    users = [i for i in imports() if i.of("cryptography") and i.importer != "gateway.certificates"]
    assert not complaints(i for i in users if i.importer != hashes or not i.inside_function)
    commands = (i for i in imports() if i.of("gateway.certificates") and within(i.importer, "gateway.cli"))
    assert not complaints(i for i in commands if not i.inside_function and not i.for_types_only)


def test_a_message_names_the_command_that_the_person_has() -> None:
    """In a checkout that is `python3 run.py`, and no `fleetpush` is on the path."""
    (commands,) = (
        node.value
        for node in trees()["gateway.cli"].body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS"
    )
    command = re.compile(rf"\bfleetpush ({'|'.join(ast.literal_eval(commands))})\b(?!:)")

    def messages(tree: ast.Module) -> Iterator[str]:
        explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
                yield node.value

    named = {(name, text) for name, tree in trees().items() for text in messages(tree) if command.search(text)}
    assert not named


def test_only_the_edge_knows_http() -> None:
    edge = ("gateway.api", "gateway.app", "gateway.auth", "gateway.errors")
    assert not complaints(i for i in imports() if i.of("fastapi", "starlette") and not within(i.importer, *edge))


def test_one_module_writes_delivery_states() -> None:
    """The ledger's statements, over rows and over sets, are the only writers of deliveries
    (docs/contract.md: The life of a delivery); retention removes rows whose states are final.

    When a waiting one is handed over (`not_before`) is no state, nor is its collapse key, which a migration has noted.
    """
    writing = re.compile(r"\b(INSERT (OR \w+ )?INTO|UPDATE( OR \w+)?|REPLACE INTO)\s+delivery\b", re.IGNORECASE)
    removing = re.compile(r"\bDELETE FROM\s+delivery\b", re.IGNORECASE)

    def says(pattern: re.Pattern[str]) -> set[str]:
        texts = (
            (name, node.value)
            for name, tree in trees().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        return {name for name, text in texts if pattern.search(text)}

    others = {
        "gateway.store.deliveries.not_before": "not_before",
        "gateway.store.migrations.versions.r0016_collapse_index": "collapse_key",
    }
    assert says(writing) <= {
        "gateway.store.deliveries.ledger_statements",
        "gateway.store.deliveries.delivery_sets",
        *others,
    }
    of_sets = re.compile(r"\b(INTO|UPDATE|DELETE FROM)\s+(waiting_set|outcome_set)\b", re.IGNORECASE)
    assert says(of_sets) <= {"gateway.store.deliveries.delivery_sets"}
    for name, column in others.items():
        assert set(re.findall(r"UPDATE delivery SET (\w+)", MODULES[name].read_text())) == {column}
    assert says(removing) <= {"gateway.store.deliveries.retention"}


def test_only_the_store_says_sql() -> None:
    """Else a second database would have to be taught in a hundred places."""

    statement = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|WHERE|json_each)\b")

    def says_sql(name: str) -> bool:
        if any(i.of("sqlite3", "sqlalchemy", "sqlmodel") for i in imports_of(name)):
            return True
        nodes = list(ast.walk(trees()[name]))
        prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        return any(
            node.attr in ("execute", "executemany")
            if isinstance(node, ast.Attribute)
            else isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            and statement.search(node.value)
            for node in nodes
        )

    found = {
        name
        for name in MODULES
        if within(name, "gateway") and not within(name, "gateway.store", "gateway.cli") and says_sql(name)
    }
    assert found == set(ABOUT_A_FILE_OF_SQLITE)


def test_sql_takes_states_from_the_enumeration() -> None:
    """No number of a state in SQL, nor in a part of it: compared, set or inserted. Migrations are what they were."""
    number = r"(?<![\w?])\d"
    compared = re.compile(
        rf"\bstate\s*(?:=|==|!=|<>|<=?|>=?)\s*{number}|(?:\bstate |^)(?:NOT )?(?:IN \([^)]*{number}|BETWEEN {number}"
        rf"|BETWEEN \S+ AND {number})|\bmax\(state, {number}",
        re.IGNORECASE,
    )
    inserted = re.compile(
        r"INTO delivery \((?P<columns>[^)]*)\)\s*(?:VALUES \(|SELECT )(?P<values>.*?)(?:\)| FROM )", re.IGNORECASE
    )

    def inserts_number(text: str) -> bool:
        found = inserted.search(text)
        if found is None:
            return False
        value_of = dict(zip(found["columns"].split(", "), found["values"].split(", "), strict=True))
        return str(value_of.get("state")).isdigit()

    def texts(tree: ast.Module) -> Iterator[str]:
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                yield node.value

    ours = [
        name for name in MODULES if within(name, "gateway") and not within(name, "gateway.store.migrations.versions")
    ]
    found = ((name, text) for name in ours for text in texts(trees()[name]))
    assert not [(name, text) for name, text in found if compared.search(text) or inserts_number(text)]


def test_modules_are_readable_in_one_sitting() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGER_BY_DESIGN.get(name, MODULE_LINES)}


def test_every_module_begins_with_its_essay() -> None:
    assert not [name for name, tree in trees().items() if tree.body and not ast.get_docstring(tree)]


def test_every_directory_of_tests_is_a_package() -> None:
    """Else pytest takes tests/broker for the package `broker`."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_every_package_is_packaged() -> None:
    """A folder without __init__.py would be missing from an installed wheel's import path."""
    folders = {path.parent for path in MODULES.values()}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def compiled_modules() -> list[str]:
    """Those that pyproject.toml lists."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    modules: list[str] = wheel["hooks"]["custom"]["modules"]
    return modules


def test_compiled_modules_are_there_and_need_no_package_of_others() -> None:
    """None that would have to be installed to compile them, and whose types would be part of them."""
    assert compiled_modules() == sorted(set(compiled_modules()) & set(MODULES))
    assert packages_of_others(*compiled_modules()) == set()


def test_nothing_interpreted_inherits_from_what_is_compiled() -> None:
    """Not in the tests either: with the source it works, and a compiled class refuses when an object is made."""
    compiled = set(compiled_modules())

    def heirs(tree: ast.Module) -> Iterator[str]:
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in compiled
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and imported & {ast.unparse(base) for base in node.bases}:
                yield node.name

    assert list(heirs(ast.parse("from broker.events import NoEvents\nclass Events(NoEvents): ..."))) == ["Events"]
    interpreted = [path for name, path in MODULES.items() if name not in compiled] + [*(ROOT / "tests").rglob("*.py")]
    texts = {str(path): text for path in interpreted if "from broker." in (text := path.read_text())}
    found = {path: list(heirs(ast.parse(text))) for path, text in texts.items()}
    assert not {path: names for path, names in found.items() if names}


def test_a_class_that_has_a_length_says_itself_whether_it_is_true() -> None:
    """Python asks for the length. mypyc does not: a compiled object without `__bool__` is always true."""

    def lacking(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
                if "__len__" in methods and "__bool__" not in methods:
                    yield node.name

    assert list(lacking(ast.parse("class Queue:\n    def __len__(self): ..."))) == ["Queue"]
    assert not {name: found for name in compiled_modules() if (found := list(lacking(trees()[name])))}


def test_every_setting_of_the_broker_is_in_its_readme() -> None:
    from broker.settings import BrokerSettings

    readme = (ROOT / "broker" / "README.md").read_text()
    assert not [field.name for field in fields(BrokerSettings) if f"`{field.name}`" not in readme]


def test_a_callback_is_an_argument_that_cannot_be_left_out() -> None:
    """One that an attribute has until somebody sets it, or that has a default, is forgotten by the next wiring.

    paho-mqtt takes its callbacks in no other way.
    """
    of_paho = "gateway.cli.bridge.broker_connection"

    def late(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.arguments):
                optional = node.args[len(node.args) - len(node.defaults) :]
                optional += [arg for arg, default in zip(node.kwonlyargs, node.kw_defaults, strict=True) if default]
                yield from (f"{arg.arg}, line {arg.lineno}" for arg in optional if arg.arg.startswith("on_"))
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            placeholder = isinstance(value, ast.Lambda) or (isinstance(value, ast.Constant) and value.value is None)
            for target in targets:
                named = isinstance(target, ast.Attribute) and target.attr.startswith(("on_", "_on_"))
                if isinstance(target, ast.Attribute) and named and (placeholder or ast.unparse(target.value) != "self"):
                    yield f"{ast.unparse(target)}, line {target.lineno}"

    found = {name: list(late(tree)) for name, tree in trees().items() if within(name, "gateway")}
    assert {name: places for name, places in found.items() if places and name != of_paho} == {}


_DECLARING = {"write": 2, "submit": 4, "submit_until_done": 3}
"""Calls that write, and how many values of one declare its apps by their place."""


def undeclared(tree: ast.Module, module: str) -> Iterator[str]:
    """The functions that have the ledger's writer write, and say nothing of whose rows."""
    own = {"gateway.store.database", "gateway.delivery.ledger"}

    def look(node: ast.AST, place: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            place = f"{place}.{node.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _DECLARING:
            receiver = ast.unparse(node.func.value)
            is_writer = re.fullmatch(r"(.*[._])?(database|ledger)", receiver) or (receiver == "self" and module in own)
            named = {keyword.arg for keyword in node.keywords}
            if is_writer and len(node.args) < _DECLARING[node.func.attr] and not named & {"apps", "app_no"}:
                yield place
        for child in ast.iter_child_nodes(node):
            yield from look(child, place)

    return look(tree, module)


def test_a_write_says_whose_rows_it_writes() -> None:
    found = {place for name, tree in trees().items() if within(name, "gateway") for place in undeclared(tree, name)}
    assert sorted(found - WRITES_OF_EVERY_APP) == [], "they are to say the apps whose rows they write: `apps=`"
    assert sorted(WRITES_OF_EVERY_APP - found) == [], "they do now: take them off the list"


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ("self._database.write(operation)", True),
        ("self._database.submit(operation, done, on_error, uses_reserve=False)", True),
        ("self._ledger.submit_until_done(operation, done)", True),
        ("self._database.write(operation, app_no)", False),
        ("self._database.submit(operation, done, on_error, apps=EVERY_APP)", False),
        ("file.write(line)", False),
    ],
)
def test_a_write_that_does_not_is_found(call: str, is_found: bool) -> None:
    tree = ast.parse(f"class Some:\n async def change(self):\n  {call}")
    assert list(undeclared(tree, "module")) == (["module.Some.change"] if is_found else [])
