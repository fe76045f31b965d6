"""The console's sources, read and not run: nothing that reads HTML, no other server, every text in every language."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.third_party import require

CONSOLE = Path(__file__).resolve().parents[2] / "gateway" / "console"
SCRIPTS = sorted(CONSOLE.rglob("*.js"))
LANGUAGES = sorted(folder.name for folder in (CONSOLE / "texts").iterdir())
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|\beval\b|new Function|createContextualFragment"
    r"|parseFromString|srcdoc\s*=|setTimeout\(\s*[\"'`]|setInterval\(\s*[\"'`]|\.cssText|setAttribute\(\s*[\"']style"
)
"""Whatever makes markup, script or style of a text."""
ELSEWHERE = re.compile(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", re.IGNORECASE)
NAMES_OF_THE_WEB = ("http://www.w3.org/",)
"""Names of namespaces, which nobody asks."""


def code_of(source: str) -> str:
    """A script without its comments."""
    return re.sub(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", "", source, flags=re.DOTALL)


def faults(source: str) -> list[str]:
    code = code_of(source)
    for name in NAMES_OF_THE_WEB:
        code = code.replace(name, "")
    return FORBIDDEN.findall(code) + ELSEWHERE.findall(code)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(CONSOLE).as_posix())
def test_no_text_becomes_markup_and_no_other_server_is_asked(script: Path) -> None:
    assert faults(script.read_text()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "a.innerHTML = b",
        "eval(x)",
        'fetch("https://cdn.example/x.js")',
        "document.write(a)",
        'import "//x.example/a.js"',
    ],
)
def test_a_wrong_script_is_found(wrong: str) -> None:
    assert faults(wrong)


def test_the_styles_ask_nobody_either() -> None:
    for style in CONSOLE.rglob("*.css"):
        assert not re.search(r"@import|url\(", style.read_text()), style


def rules_of(style: Path) -> dict[tuple[str, str], str]:
    """What a style says on every screen: selector and property -> value."""
    text = re.sub(r"/\*.*?\*/|@[^{]*\{(?:[^{}]*\{[^{}]*\})*\s*\}", "", style.read_text(), flags=re.DOTALL)
    return {
        (selector.strip(), name.strip()): value.strip()
        for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", text)
        for selector in re.split(r",(?![^(]*\))", selectors)
        for name, _, value in (line.partition(":") for line in body.split(";") if ":" in line)
    }


def test_styles_of_two_screens_do_not_contradict_each_other() -> None:
    """They stay loaded: what a screen looks like must not depend on those that were visited before."""
    said: dict[tuple[str, str], str] = {}
    for style in sorted((CONSOLE / "css").glob("*.css")):
        for rule, value in rules_of(style).items():
            assert said.setdefault(rule, value) == value, f"{style.name}: {rule}"


@cache
def texts() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Language -> module -> names of the texts that it exports -> their places for values."""
    files = {language: sorted((CONSOLE / "texts" / language).iterdir()) for language in LANGUAGES}
    addresses = {language: {path.stem: path.as_uri() for path in paths} for language, paths in files.items()}
    program = (
        "const places = (text) => [...new Set(Object.values(Object(typeof text === 'string' ? [text] : text))"
        ".join(' ').match(/\\{\\w+\\}/g) ?? [])].sort();"
        f"const found = {json.dumps(addresses)};"
        "for (const modules of Object.values(found)) for (const [module, address] of Object.entries(modules)) {"
        "const named = Object.entries((await import(address)).default).map(([name, text]) => [name, places(text)]);"
        "modules[module] = Object.fromEntries(named); }"
        "console.log(JSON.stringify(found));"
    )
    done = subprocess.run(
        [require("node"), "--input-type=module", "--no-warnings", "--eval", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, dict[str, dict[str, list[str]]]] = json.loads(done.stdout)
    return read


def test_every_language_has_every_text_with_its_places() -> None:
    english, german = texts()["en"], texts()["de"]
    assert german.keys() == english.keys()
    for name in english:
        assert german[name] == english[name], name


def test_every_text_that_a_script_names_is_there() -> None:
    known = {f"{module}.{name}" for module, named in texts()["en"].items() for name in named}
    for script in SCRIPTS:
        named = set(re.findall(r"\bt(?:\.parts|\.has)?\(\s*\"([a-z_-]+\.[a-z_0-9]+)\"", code_of(script.read_text())))
        assert named <= known, script


def test_the_page_names_the_scripts_that_it_begins_with() -> None:
    """So that they are fetched together, and not one after the other has been read."""
    needed = {CONSOLE / "main.js"}
    unread = list(needed)
    while unread:
        script = unread.pop()
        imported = re.findall(r'^(?:import|export)\b[^;]*?"(\.[^"]+)";', script.read_text(), flags=re.MULTILINE)
        new = {(script.parent / name).resolve() for name in imported} - needed
        needed |= new
        unread += new
    page = (CONSOLE / "index.html").read_text()
    named = re.findall(r'(?:rel="modulepreload" href|type="module" src)="/console/static/([^"]+)"', page)
    assert sorted(named) == sorted(path.relative_to(CONSOLE).as_posix() for path in needed)
