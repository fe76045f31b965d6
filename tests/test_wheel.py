"""What others install: the wheel, in an empty environment, with the newest versions that pyproject.toml allows.

constraints.txt is not asked, so a dependency that has removed or renamed what we use is found here, before a user finds
it. Without a package index in reach the test is skipped; in an automatic run (`CI=true`) it fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.end_to_end.harness import Server, clean_environment, wait_for
from tests.third_party import Listener, require

ROOT = Path(__file__).resolve().parent.parent
IMPORT_ALL = """
import importlib, pkgutil
for package in ("broker", "gateway", "client_sim"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
"""
CONNACK_BAD_CREDENTIALS = bytes.fromhex("20020004")


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    environment |= {"PIP_ROOT_USER_ACTION": "ignore", "PIP_USER": "0"}
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input", "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150)


def distributions(tmp_path: Path) -> tuple[Path, Path]:
    """The source distribution of this tree, and the wheel that is made of it."""
    folder = tmp_path / "distributions"
    # Fetched as pip itself fetches it for `pip install .`; it fails first where there is no index.
    fetched = pip("install", "--target", str(folder / "builder"), "--no-compile", "--retries", "1", "hatchling")
    if fetched.returncode != 0:
        reason = f"no package index in reach: {fetched.stderr.strip().splitlines()[-1:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    build("sdist", ROOT, folder)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "source", filter="data")
    (tree,) = (folder / "source").iterdir()
    build("wheel", tree, folder)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def build(kind: str, tree: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(folder / "builder")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def installed(wheel: Path, tmp_path: Path) -> Path:
    """The programs of an environment that was empty before the wheel was installed, without constraints."""
    folder = tmp_path / "installed"
    # pip of the tests' environment does what its own would: that would be installed first, for three seconds.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, capture_output=True, timeout=60)
    programs = folder / "bin"
    done = pip("--python", str(programs / "python"), "install", "--no-compile", str(wheel))
    assert done.returncode == 0, done.stderr
    return programs


@pytest.mark.long
@pytest.mark.timeout(360)  # forty packages, on a machine that does other things too
def test_an_installed_wheel_serves_a_push(tmp_path: Path) -> None:
    """One test, because each of its steps needs the environment, which takes most of the time."""
    subscriber = require("mosquitto_sub")
    source, wheel = distributions(tmp_path)
    what_they_hold(source, wheel)
    programs = installed(wheel, tmp_path)
    fleetpush = str(programs / "fleetpush")
    outside = clean_environment(PYTHONPATH="")
    # `-I`: neither this tree nor the tests' environment is on its path.
    subprocess.run([programs / "python", "-I", "-c", IMPORT_ALL], check=True, cwd=tmp_path, timeout=60)

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [fleetpush, *arguments], capture_output=True, text=True, env=outside, cwd=tmp_path, timeout=90
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    received: list[str] = []
    with Server(tmp_path / "data", program=[fleetpush], env={"PYTHONPATH": ""}) as server:
        directory = ("--data-dir", str(server.data_dir))
        device = server.api.enrol("sign-1")
        topic = "default/devices/sign-1/push"
        listen = [subscriber, "-p", str(server.mqtt_port), "-i", device.id, "-u", device.id, "-P", device.token]
        with Listener([*listen, "-c", "-q", "1", "-t", topic], received.append):
            server.api.wait_online(device.id)
            command("push", device.id, "Fresh bread", *directory)
            wait_for(lambda: received, what="the push")
        assert "Fresh bread" in received[0]
        assert device.id in command("devices", "list", *directory)
        # The WebSocket library has renamed what we use more than once.
        with connect(f"ws://127.0.0.1:{server.http_port}/mqtt", subprotocols=[Subprotocol("mqtt")], proxy=None) as web:
            web.send(connect_packet("sign-1", "sign-1", "no token"))
            assert web.recv(timeout=10) == CONNACK_BAD_CREDENTIALS
        assert server.api.request("GET", "/docs").status_code == 200
        assert server.stop() == 0
    command("simulate", str(small_scenario(tmp_path)))


def connect_packet(*texts: str) -> bytes:
    """MQTT 3.1.1: client id, user name and password."""
    payload = b"".join(len(text).to_bytes(2) + text.encode() for text in texts)
    body = bytes.fromhex("0004 4d515454 04 c2 003c") + payload
    return bytes([0x10, len(body)]) + body


def what_they_hold(source: Path, wheel: Path) -> None:
    """The product and no tests in the wheel, everything that is tested in the source distribution."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert {name.split("/")[0] for name in packed if ".dist-info/" not in name} == {"broker", "gateway", "client_sim"}
    assert "client_sim/web/index.html" in packed
    assert not [name for name in packed if "node_modules" in name], "what npm fetched is not ours"
    with tarfile.open(source) as archive_of_source:
        names = {name.partition("/")[2] for name in archive_of_source.getnames()}
    assert {
        "run.py",
        "constraints.txt",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "docs/push.md",
        "LICENSE",
        "tests/test_wheel.py",
    } <= names


def small_scenario(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(
        'title = "Small"\ndescription = "Some devices, some pushes."\ndevices = 10\n'
        '[[phase]]\nname = "connect"\n[[phase]]\nname = "traffic"\nlasts = "1s"\n[[phase.push]]\nrate = "10/s"\n'
    )
    return path
