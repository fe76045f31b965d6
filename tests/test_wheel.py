"""What others install: the wheels, in an empty environment, with the newest versions that pyproject.toml allows.

Without extras it is the device client, with `[server]` and `[simulator]` the rest. constraints.txt is not asked, so a
dependency that has removed or renamed what we use is found here, before a user finds it. Without a package index in
reach the tests are skipped; in an automatic run (`CI=true`) they fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from broker.compiled_modules import build_directory
from client_sim.device import Device
from tests.documents import markdown
from tests.end_to_end.harness import Server, clean_environment, wait_for
from tests.test_architecture import compiled_modules
from tests.third_party import Listener, require

pytestmark = pytest.mark.long  # together, so that one process builds what they share

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("broker", "gateway", "client_sim")
IMPORT_ALL = """
import importlib, pkgutil
for package in ("broker", "gateway", "client_sim"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        # What speaks to PostgreSQL is for who has its extra.
        left_out = module.name.endswith("__main__") or ".migrations" in module.name or ".postgresql." in module.name
        if not left_out:
            importlib.import_module(module.name)
"""
DEVICE = """
from client_sim.device import Device
from client_sim.testing import FakeServer

def show(push):
    device.act(push, "play")

with FakeServer() as server:
    device = Device("kiosk-1", "token", port=server.port, on_push=show)
    device.actions["play"] = lambda push: {"state": "playing"}
    with device:
        push_id = server.push("kiosk-1", notification={"title": "Hi", "actions": [{"id": "play", "title": "Play"}]})
        told = server.wait(push_id, "acted")
print(told["state"], told["result"])
"""
MISTAKES = """
from client_sim.device import Device

device = Device("kiosk-1", 17)
device.act("no push", "play")
device.beep()
"""
EXTRA_OF_COMMAND = {
    "fleetpush": "server",
    "fleetpush serve": "server",
    "fleetpush listen kiosk-1": "server",
    "fleetpush push kiosk-1 Hello": "server",
    "fleetpush simulate steady": "simulator",
    "python -m broker": "server",
    "python -m client_sim": "simulator",
}
VERSION = r"fleetpush \d+\.\d+\.\d+( \((pure|compiled)\))?\n"
CONNACK_BAD_CREDENTIALS = bytes.fromhex("20020004")


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    environment |= {"PIP_ROOT_USER_ACTION": "ignore", "PIP_USER": "0"}
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input", "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150)


class Distributions:
    """The source distribution of this tree, the wheel that is made of it, and the one that is made of the tree. Those
    wheels are for every platform; `build_wheel` makes others."""

    def __init__(self, folder: Path) -> None:
        # Fetched as pip itself fetches it for `pip install .`; it fails first where there is no index.
        fetched = pip("install", "--target", str(folder / "builder"), "--no-compile", "--retries", "1", "hatchling")
        if fetched.returncode != 0:
            reason = f"no package index in reach: {fetched.stderr.strip().splitlines()[-1:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        self._builder = folder / "builder"
        self.source = self._build("sdist", ROOT, folder)
        with tarfile.open(self.source) as archive:
            archive.extractall(folder / "source", filter="data")
        (tree,) = (folder / "source").iterdir()
        self.tree = tree
        self.wheel = self._build("wheel", tree, folder / "of_the_source")
        self.wheel_of_tree = self._build("wheel", ROOT, folder / "of_the_tree")

    def _build(self, kind: str, tree: Path, folder: Path) -> Path:
        done = self.build(kind, tree, folder, FLEETPUSH_PURE="1")
        assert done.returncode == 0, done.stderr
        (built,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
        return built

    def build(self, kind: str, tree: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
        environment = {name: value for name, value in os.environ.items() if name != "FLEETPUSH_PURE"}
        environment |= {"PYTHONPATH": str(self._builder)} | variables
        return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=600)

    def compiled_wheel(self, folder: Path) -> Path:
        """The wheel for this platform."""
        require("cc")
        done = self.build("wheel", self.tree, folder, FLEETPUSH_PURE="0")
        assert done.returncode == 0, done.stderr
        (built,) = folder.glob("*.whl")
        return built


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return Distributions(tmp_path_factory.mktemp("distributions"))


class Environment:
    """A virtual environment that is empty until something is installed, without constraints."""

    def __init__(self, folder: Path) -> None:
        # pip of the tests' environment does what its own would: that would be installed first, for three seconds.
        command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self.programs = folder / "bin"
        self.python = self.programs / "python"
        self._outside = folder.parent

    def install(self, requirement: str) -> None:
        done = pip("--python", str(self.python), "install", "--no-compile", requirement)
        assert done.returncode == 0, done.stderr

    def packages(self) -> list[str]:
        names = "from importlib.metadata import distributions as all; print(*sorted(one.name for one in all()))"
        return self.succeed("python", "-I", "-c", names).split()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """One of its programs. Neither this tree nor the tests' environment is on its path."""
        program = [str(self.programs / command[0]), *command[1:]]
        environment = clean_environment(PYTHONPATH="")
        return subprocess.run(program, capture_output=True, text=True, env=environment, cwd=self._outside, timeout=90)

    def succeed(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_wheel_holds_the_product_and_no_tests(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        packed = set(archive.namelist())
    assert {name.split("/")[0] for name in packed if ".dist-info/" not in name} == set(PACKAGES)
    simulator = {"scenarios/steady.toml", "templates/simulation.html", "templates/simulation.css"}
    assert {f"client_sim/simulator/{name}" for name in simulator} | {"client_sim/web/index.html"} <= packed
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed
    assert {"gateway/deploy/fleetpush.service", "gateway/deploy/fleetpush.socket"} <= packed
    assert {"gateway/deploy/prometheus-alerts.yml", "gateway/deploy/grafana-dashboard.json"} <= packed
    assert not [name for name in packed if "node_modules" in name], "what npm fetched is not ours"
    assert distributions.wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in packed if name.endswith(EXTENSION_SUFFIXES[0])]


def test_the_source_distribution_holds_what_is_tested(distributions: Distributions) -> None:
    with tarfile.open(distributions.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "run.py",
        "constraints.txt",
        "pyproject.toml",
        "hatch_build.py",
        "README.md",
        "CHANGELOG.md",
        "docs/push.md",
        "LICENSE",
        "examples/kiosk.py",
        "tests/test_wheel.py",
    } <= names


def files_of_the_tree() -> set[str]:
    """What is, or would be, in the repository: neither ignored nor made by a build."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository that says what belongs to it")
    command = [require("git"), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name for name in names if (ROOT / name).exists()}


def test_no_file_is_forgotten(distributions: Distributions) -> None:
    """The source distribution is the tree without the automatic run; the wheel is its packages without what builds
    them."""
    tree = files_of_the_tree()
    with tarfile.open(distributions.source) as archive:
        source = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert tree ^ source == {".ci/run", "PKG-INFO"}
    with zipfile.ZipFile(distributions.wheel) as archive:
        wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    packages = {name for name in tree if name.split("/")[0] in PACKAGES}
    assert packages - wheel == {name for name in packages if name.startswith("gateway/deploy/debian/")}
    assert not wheel - packages


def test_the_source_distribution_builds_the_same_wheel(distributions: Distributions) -> None:
    assert distributions.wheel.name == distributions.wheel_of_tree.name
    with zipfile.ZipFile(distributions.wheel) as one, zipfile.ZipFile(distributions.wheel_of_tree) as other:
        assert {entry.filename: entry.CRC for entry in one.infolist()} == {
            entry.filename: entry.CRC for entry in other.infolist()
        }


def test_an_installed_wheel_is_a_device(distributions: Distributions, tmp_path: Path) -> None:
    """One test, because each of its steps needs the environment."""
    environment = Environment(tmp_path / "installed")
    environment.install(str(distributions.wheel))
    packages = environment.packages()
    assert "fleetpush" in packages
    assert len(packages) <= 10, f"a kiosk pays for each of them: {packages}"
    assert environment.succeed("python", "-I", "-c", DEVICE) == "acted {'state': 'playing'}\n"
    signed = environment.run("python", "-I", "-c", "import client_sim.trust")
    assert signed.stderr.endswith("signed commands need an extra: pip install 'fleetpush[signed]'\n")
    for command in ("fleetpush --version", "python -m client_sim --version", "python -m broker --version"):
        assert re.fullmatch(VERSION, environment.succeed(*command.split())), command
    for command, extra in EXTRA_OF_COMMAND.items():
        done = environment.run(*command.split())
        assert (done.returncode, done.stdout) == (2, ""), command
        (sentence,) = done.stderr.splitlines()
        assert sentence.endswith(f"type: {environment.python} -m pip install 'fleetpush[{extra}]'"), command
    types_are_seen(environment, tmp_path)


def types_are_seen(environment: Environment, folder: Path) -> None:
    """`mypy --strict` checks users' programs against what is installed: README's device, the example, and mistakes."""
    (example,) = (block.text for block in markdown.blocks(ROOT / "README.md") if block.language == "python")
    program, wrong = folder / "program.py", folder / "wrong.py"
    program.write_text(f"{example}\nreveal_type(device.connected)\n")
    wrong.write_text(MISTAKES)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", os.devnull]
    command += ["--cache-dir", str(folder / "mypy"), "--python-executable", str(environment.python)]

    kiosk = folder / "kiosk.py"
    kiosk.write_bytes((ROOT / "examples" / "kiosk.py").read_bytes())
    command += [kiosk.name, program.name, wrong.name]
    said = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=150).stdout.splitlines()

    def complaints(file: Path) -> list[str]:
        return [line for line in said if line.startswith(f"{file.name}:")]

    assert complaints(kiosk) == []
    assert [line.partition(": ")[2] for line in complaints(program)] == ['note: Revealed type is "bool"']
    codes = [found[1] for line in complaints(wrong) if (found := re.search(r" error: .* \[([a-z-]+)\]$", line))]
    assert codes == ["arg-type", "arg-type", "attr-defined"]


@pytest.fixture(scope="module")
def compiled_wheel(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory, full: int) -> Path:
    """The wheel takes seconds where the modules have been compiled, as in an automatic run, and minutes elsewhere."""
    if full == 1 and not Path(build_directory(sys.prefix)).exists():
        pytest.skip("no compiled modules of this state of the source: `python3 run.py compile` makes them")
    return distributions.compiled_wheel(tmp_path_factory.mktemp("compiled"))


@pytest.mark.full_only  # a minute of a compiler: `.ci/run` compiles the modules once
def test_a_wheel_for_a_platform_has_compiled_modules_beside_their_source(
    distributions: Distributions, compiled_wheel: Path
) -> None:
    suffix = EXTENSION_SUFFIXES[0]
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert f"-{tag}-{tag}-" in compiled_wheel.name
    with zipfile.ZipFile(compiled_wheel) as compiled, zipfile.ZipFile(distributions.wheel) as pure:
        more = set(compiled.namelist()) - set(pure.namelist())
        assert set(pure.namelist()) <= set(compiled.namelist())
    modules = {name.replace(".", "/") + suffix for name in compiled_modules()}
    assert more == {*modules, f"fleetpush__mypyc{suffix}"}


@pytest.mark.full_only  # a minute of a compiler: `.ci/run` compiles the modules once
@pytest.mark.parametrize("form", ["pure", "compiled"])
def test_either_wheel_serves_a_push(
    form: str, distributions: Distributions, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the packages of the tests' environment: what a newest one has changed is another test's business."""
    wheel = distributions.wheel if form == "pure" else request.getfixturevalue("compiled_wheel")
    installed = tmp_path / "installed"
    done = pip("install", "--no-deps", "--no-compile", "--target", str(installed), str(wheel))
    assert done.returncode == 0, done.stderr
    variables = {"PYTHONPATH": str(installed), "FLEETPUSH_PURE": ""}
    program = [sys.executable, "-m", "gateway"]

    def version(**more: str) -> str:
        environment = clean_environment(**variables | more)
        command = [*program, "--version"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout

    assert version().endswith(f" ({form})\n")
    assert version(FLEETPUSH_PURE="1").endswith(" (pure)\n")
    received: list[str] = []
    with Server(tmp_path / "data", program=program, env=variables) as server:
        token = server.api.enrol("sign-1").token
        with Device("sign-1", token, port=server.mqtt_port, on_push=lambda push: received.append(str(push.data))):
            server.api.wait_online("sign-1")
            push_id = server.api.push("sign-1", data="Fresh bread")
            wait_for(lambda: received, what="the push")
            wait_for(lambda: server.api.counts(push_id)["delivered"] == 1, what="the acknowledgement")
        metrics = server.api.request("GET", "/metrics").text
        assert re.search(rf'^fleetpush_build_info\{{.*modules="{form}"', metrics, re.MULTILINE)
        assert server.stop() == 0
    assert received == ["Fresh bread"]


SMALL = re.compile(r"^modules = \[.*?\]$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def small_tree(distributions: Distributions, tmp_path: Path) -> Path:
    """The source distribution with one small module to compile."""
    tree = tmp_path / "small"
    shutil.copytree(distributions.tree, tree)
    project = tree / "pyproject.toml"
    project.write_text(SMALL.sub('modules = ["broker.packet_ids"]', project.read_text()))
    return tree


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "the C compiler no-such-compiler is missing"), ("false", "exit status 1")],
)
def test_what_cannot_be_compiled_is_left_out_and_said(
    compiler: str, reason: str, distributions: Distributions, small_tree: Path, tmp_path: Path
) -> None:
    done = distributions.build("wheel", small_tree, tmp_path / "wheels", CC=compiler)
    assert done.returncode == 0, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "A wheel of pure Python, without compiled modules: " in said
    assert reason in said
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    assert wheel.name == distributions.wheel.name
    demanded = distributions.build("wheel", small_tree, tmp_path / "demanded", CC=compiler, FLEETPUSH_PURE="0")
    assert demanded.returncode != 0
    assert not list((tmp_path / "demanded").glob("*.whl"))


@pytest.mark.full_only  # a minute of a compiler: `.ci/run` compiles the modules once
def test_the_source_distribution_compiles(distributions: Distributions, small_tree: Path, tmp_path: Path) -> None:
    """With one module, which takes seconds; `run.py compile` builds the whole wheel."""
    require("cc")
    done = distributions.build("wheel", small_tree, tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    program = "import broker.packet_ids as p; print(p.__file__, p.PacketIds(1, 4).find_free(4, {4}))"
    environment = clean_environment(PYTHONPATH=str(wheel_as_folder(wheel, tmp_path)), FLEETPUSH_PURE="")
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert said.endswith(f"packet_ids{EXTENSION_SUFFIXES[0]} (1, 2)\n")


def wheel_as_folder(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.full_only
@pytest.mark.timeout(360)  # forty packages, on a machine that does other things too
def test_an_installed_server_serves_a_push(distributions: Distributions, tmp_path: Path) -> None:
    """One test, because each of its steps needs the environment, which takes most of the time."""
    subscriber = require("mosquitto_sub")
    environment = Environment(tmp_path / "installed")
    environment.install(f"fleetpush[server] @ {distributions.wheel.as_uri()}")
    assert re.fullmatch(VERSION, environment.succeed("python", "-m", "broker", "--version"))
    fleetpush = str(environment.programs / "fleetpush")
    received: list[str] = []
    with Server(tmp_path / "data", program=[fleetpush], env={"PYTHONPATH": ""}) as server:
        directory = ("--data-dir", str(server.data_dir))
        device = server.api.enrol("sign-1")
        topic = "default/devices/sign-1/push"
        listen = [subscriber, "-p", str(server.mqtt_port), "-i", device.id, "-u", device.id, "-P", device.token]
        with Listener([*listen, "-c", "-q", "1", "-t", topic], received.append):
            server.api.wait_online(device.id)
            environment.succeed("fleetpush", "push", device.id, "Fresh bread", *directory)
            wait_for(lambda: received, what="the push")
        assert "Fresh bread" in received[0]
        assert device.id in environment.succeed("fleetpush", "devices", "list", *directory)
        # The WebSocket library has renamed what we use more than once.
        with connect(f"ws://127.0.0.1:{server.http_port}/mqtt", subprotocols=[Subprotocol("mqtt")], proxy=None) as web:
            web.send(connect_packet("sign-1", "sign-1", "no token"))
            assert web.recv(timeout=10) == CONNACK_BAD_CREDENTIALS
        assert server.api.request("GET", "/docs").status_code == 200
        assert server.stop() == 0
    without = environment.run("fleetpush", "simulate", "steady")
    assert (without.returncode, without.stdout) == (2, "")
    assert without.stderr.endswith(f"type: {environment.python} -m pip install 'fleetpush[simulator]'\n")
    environment.install(f"fleetpush[simulator] @ {distributions.wheel.as_uri()}")
    environment.succeed("python", "-I", "-c", IMPORT_ALL)
    environment.succeed("fleetpush", "simulate", str(small_scenario(tmp_path)))


def connect_packet(*texts: str) -> bytes:
    """MQTT 3.1.1: client id, user name and password."""
    payload = b"".join(len(text).to_bytes(2) + text.encode() for text in texts)
    body = bytes.fromhex("0004 4d515454 04 c2 003c") + payload
    return bytes([0x10, len(body)]) + body


def small_scenario(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(
        'title = "Small"\ndescription = "Some devices, some pushes."\ndevices = 10\n'
        '[[phase]]\nname = "connect"\n[[phase]]\nname = "traffic"\nlasts = "1s"\n[[phase.push]]\nrate = "10/s"\n'
    )
    return path
