"""What the documents point to is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.documents.markdown import anchors, links, prose

ROOT = Path(__file__).resolve().parents[2]
NO_CLASSES = {"LimitNOFILE", "AutoSelectCertificateForUrls", "HttpOnly"}
"""Settings of others, spelt like classes."""
FOLDERS = ("broker", "client_sim", "docs", "examples", "gateway", "tests")


def pages() -> list[Path]:
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md") if "node_modules" not in path.parts]
    return sorted([*ROOT.glob("*.md"), *below])


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere, or out of the repository."""
    for number, address in links(page):
        if re.match(r"[a-z]+:", address):
            continue
        path, _, anchor = address.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            yield f"{page.relative_to(ROOT)}:{number}: {address}"
        elif anchor and anchor not in anchors(target):
            yield f"{page.relative_to(ROOT)}:{number}: {address}: no such heading"


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    assert [link for page in pages() for link in broken(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n[here](#a-page) [nowhere](nowhere.md) [no heading](#none)\n\n```\n[code](no.md)\n```\n"
    )
    assert [address for _, address in links(page)] == ["#a-page", "nowhere.md", "#none"]
    assert anchors(page) == {"a-page"}


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = (address.partition("#")[0] for _, address in links(page) if not re.match(r"[a-z]+:", address))
        ahead += [(page.parent / target).resolve() for target in targets if target]
    assert [str(page.relative_to(ROOT)) for page in pages() if page not in seen] == []


def test_what_the_source_cites_of_the_documents_is_there() -> None:
    """As `docs/contract.md`, or with a heading, `docs/contract.md: Time`."""
    cited = re.compile(r"(docs/[\w/-]+\.md)(?:: ([A-Z][\w ]+))?")
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {match.groups() for path in sources for match in cited.finditer(path.read_text())}
    assert len(found) > 5
    assert [page for page, _ in found if not (ROOT / page).exists()] == []
    assert [
        f"{page}: {heading}"
        for page, heading in found
        if heading and heading.lower().replace(" ", "-") not in anchors(ROOT / page)
    ] == []


def test_every_file_that_a_document_names_exists() -> None:
    """A renamed module must not leave a document behind. `broker/untaken` is broker/untaken.py."""
    named = re.compile(r"`((?:broker|gateway|client_sim|tests|docs)/[\w/.-]*[\w/])`")
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages()
        for name in named.findall("\n".join(prose(page)))
        if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()
    ]
    assert missing == []


def test_every_class_that_a_document_names_exists() -> None:
    """A renamed class must not leave a document behind, either."""
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    known = {name for path in sources for name in re.findall(r"^ *class (\w+)", path.read_text(), re.MULTILINE)}
    named = {
        (str(page.relative_to(ROOT)), name)
        for page in pages()
        if page.parent.name != "reference"
        for name in re.findall(r"`([A-Z][a-z]+[A-Z][A-Za-z]+)(?:\.\w+)?(?:\([^`]*\))?`", "\n".join(prose(page)))
    }
    assert len(named) > 20
    assert sorted(place for place in named if place[1] not in known | NO_CLASSES) == []


def test_what_a_document_finds_in_a_file_is_there() -> None:
    """`Settings` in `gateway/settings.py`: the name is defined in that file, or in one of that folder."""
    named = re.compile(r"`([A-Z]\w+)`\s+in\s+`((?:broker|gateway|client_sim)/[\w/.-]+)`")
    cited = {
        (str(page.relative_to(ROOT)), *found) for page in pages() for found in named.findall("\n".join(prose(page)))
    }
    assert len(cited) > 3
    assert [place for place in sorted(cited) if not defines(ROOT / place[2], place[1])] == []


def defines(path: Path, name: str) -> bool:
    """Whether a class or a constant of this name is made in the file, or below the folder."""
    made = re.compile(rf"^(?:class {name}\b|{name}\b.* = )", re.MULTILINE)
    return any(made.search(file.read_text()) for file in (path.rglob("*.py") if path.is_dir() else [path]))


def test_every_test_that_a_document_names_exists() -> None:
    """A renamed test must not leave a promise without the test that holds it."""
    tests = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in tests}
    for path in tests:
        known |= set(re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    named = {name for page in pages() for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert named - known == set()
    promises = re.findall(r"^\| (\d) \| `test_", (ROOT / "docs" / "promises.md").read_text(), re.MULTILINE)
    assert promises == list("123456")
