"""The console's files over HTTP: their headers, their versions, and what is none of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.api.console import FOR_EVER, HEADERS, read_files
from tests.gateway.in_process import InProcessGateway

CONSOLE = Path(__file__).resolve().parents[3] / "gateway" / "console"


async def test_every_screen_is_one_page_that_may_run_its_own_scripts_alone(gateway: InProcessGateway) -> None:
    first = await gateway.http.get("/console/")
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
    policy = first.headers["content-security-policy"]
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(
        policy.split("; ")
    )
    assert "unsafe" not in policy
    for address in ("/console/fleet?where=a%20%3D%201", "/console/devices/kiosk-1", "/console/no-such-screen"):
        assert (await gateway.http.get(address)).text == first.text


async def test_the_address_without_its_slash_leads_to_it_and_nowhere_else(gateway: InProcessGateway) -> None:
    answer = await gateway.http.get("/console", headers={"Host": "elsewhere.example"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "/console/")


async def test_files_never_change_under_their_address(gateway: InProcessGateway) -> None:
    page = (await gateway.http.get("/console/")).text
    addresses = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page)
    assert len(addresses) >= 3
    for address in addresses:
        answer = await gateway.http.get(address)
        assert answer.status_code == 200, address
        assert answer.headers["cache-control"] == FOR_EVER
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = await gateway.http.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    digest = addresses[0].split("/")[3]
    other = await gateway.http.get(addresses[0].replace(digest, "0" * len(digest)))
    assert other.status_code == 404, "of another version: never a mixture"


async def test_the_page_itself_is_asked_for_again_and_costs_nothing_if_it_is_the_same(
    gateway: InProcessGateway,
) -> None:
    page = await gateway.http.get("/console/")
    again = await gateway.http.get("/console/", headers={"If-None-Match": f'W/"0", {page.headers["etag"]}'})
    assert again.status_code == 304


async def test_the_heads_are_those_of_the_files(gateway: InProcessGateway) -> None:
    for address in ("/console/", f"/console/static/{read_files(CONSOLE).digest}/html.js"):
        answer, head = await gateway.http.get(address), await gateway.http.head(address)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == answer.headers


async def test_what_is_compressed_is_the_same(gateway: InProcessGateway) -> None:
    address = f"/console/static/{read_files(CONSOLE).digest}/html.js"
    plain = await gateway.http.get(address, headers={"Accept-Encoding": "identity"})
    packed = await gateway.http.get(address, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content == (CONSOLE / "html.js").read_bytes()
    assert int(packed.headers["content-length"]) < len(plain.content) / 2


@pytest.mark.parametrize(
    "path",
    [
        "/console/static/{digest}/README.md",
        "/console/static/{digest}/../api/console.py",
        "/console/static/{digest}/..%2Fapi%2Fconsole.py",
        "/console/static/{digest}/%2e%2e/%2e%2e/pyproject.toml",
        "/console/static/{digest}//etc/passwd",
        "/console/static/{digest}/",
        "/console/static/{digest}",
        "/console/static/html.js",
        "/console/favicon.ico",
        "/console/..%2f..%2fetc%2fpasswd",
    ],
)
async def test_what_is_no_file_is_not_found(gateway: InProcessGateway, path: str) -> None:
    answer = await gateway.http.get(path.replace("{digest}", read_files(CONSOLE).digest))
    assert answer.status_code == 404, answer.text[:100]
    assert answer.json()["code"] == "not_found"


async def test_nothing_is_sent_to_it(gateway: InProcessGateway) -> None:
    assert (await gateway.http.post("/console/", content=b"x")).status_code == 405


def test_another_content_has_another_digest(tmp_path: Path) -> None:
    def files(**contents: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in contents.items():
            (folder / f"{name}.js").write_text(content)
        (folder / "index.html").write_text("<p>")
        return folder

    digests = [read_files(files(**given)).digest for given in ({"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": ""})]
    assert len(set(digests)) == len(digests)
    assert read_files(files(a="1")).digest == digests[0]
