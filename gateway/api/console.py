"""The console's files at `/console`: what a browser shows to the people who send, and nothing that is made for one.

All of them are in memory, read once when the first of them is asked for: a file is found by its name in a dictionary,
so that no path leads out of the folder, and an answer costs no disk. Everything else that a person sees comes from the
public API.

1. An upgrade is never mixed. Scripts and styles are under an address with the digest of all files, which never change
   (`immutable`); only `index.html` is asked for again, and names that address. A page of the version before finds none
   of its files, asks for `index.html`, sees another digest and begins again.
2. Every screen's address answers `index.html`: the script reads what it shows from the address. What looks like a
   file (a dot in the first part) is one or is 404.
3. The policy lets a page run the scripts of this server alone, make no HTML of a text, ask no other server and be
   inside no other page.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response

from gateway.api.request_headers import header_of
from gateway.errors import problem

PATH: Final = "/console"
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served, by the end of its name; README.md is not."""
SMALLEST_COMPRESSED_BYTES: Final = 512
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
FOR_EVER: Final = "public, max-age=31536000, immutable"
ASK_AGAIN: Final = "no-cache"


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """A file as it is sent, also compressed where that is worth it."""

    content: bytes
    compressed: bytes | None
    media_type: str


@dataclass(frozen=True, slots=True)
class ConsoleFiles:
    """All files by their paths in the folder, and the digest of them all, which is in the addresses of the rest."""

    digest: str
    index: ConsoleFile
    files: dict[str, ConsoleFile]


def read_files(folder: Traversable) -> ConsoleFiles:
    """Read the console's folder. Takes tens of milliseconds: on a thread."""
    contents = dict(sorted(_contents(folder, "")))
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(b"%d %b %d " % (len(name), name.encode(), len(content)) + content)
    version = digest.hexdigest()[:16]
    here, of_version = f"{PATH}/static/".encode(), f"{PATH}/static/{version}/".encode()
    index = contents.pop("index.html").replace(here, of_version)
    files = {name: _file(name, content) for name, content in contents.items()}
    return ConsoleFiles(version, _file("index.html", index), files)


def _contents(folder: Traversable, above: str) -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _contents(entry, f"{above}{entry.name}/")
        elif _suffix(entry.name) in MEDIA_TYPES:
            found.append((above + entry.name, entry.read_bytes()))
    return found


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""


def _file(name: str, content: bytes) -> ConsoleFile:
    compressed = None
    if len(content) >= SMALLEST_COMPRESSED_BYTES:
        smaller = gzip.compress(content, mtime=0)
        compressed = smaller if len(smaller) < len(content) else None
    return ConsoleFile(content, compressed, MEDIA_TYPES[_suffix(name)])


class Console:
    """The files, read when they are first asked for. Runs on the *loop*."""

    def __init__(self, folder: Traversable) -> None:
        self._folder = folder
        self._reading = asyncio.Lock()
        self._files: ConsoleFiles | None = None

    async def files(self) -> ConsoleFiles:
        """Return the files; the first call reads them on a thread."""
        if self._files is None:
            async with self._reading:
                if self._files is None:
                    self._files = await asyncio.to_thread(read_files, self._folder)
        return self._files


def install(app: FastAPI) -> None:
    """Serve the console."""
    app.state.console = Console(resources.files("gateway").joinpath("console"))
    app.include_router(_pages)


_pages = APIRouter(include_in_schema=False)


@_pages.get(PATH)
async def without_slash(request: Request) -> Response:
    """Lead to the first screen. The address is ours whatever the request said: no other server's."""
    return Response(status_code=308, headers={**HEADERS, "Location": f"{PATH}/"})


@_pages.get(PATH + "/static/{digest}/{name:path}")
async def static_file(request: Request, digest: str, name: str) -> Response:
    """Answer a file of this version. Raises Problem 404: of another version, too."""
    found = await request.app.state.console.files()
    if digest != found.digest or name not in found.files:
        raise problem("not_found", f"the console has no such file: its files are those of {found.digest}")
    return _answer(request, found.files[name], FOR_EVER, f'"{digest}"')


@_pages.get(PATH + "/{screen:path}")
async def screen_page(request: Request, screen: str) -> Response:
    """Answer the page, which is the same for each screen. Raises Problem 404 where a file is asked for."""
    first = screen.partition("/")[0]
    if "." in first or first == "static":
        raise problem("not_found", "the console has no such file")
    found = await request.app.state.console.files()
    return _answer(request, found.index, ASK_AGAIN, f'"{found.digest}"')


def _answer(request: Request, file: ConsoleFile, caching: str, tag: str) -> Response:
    headers = {**HEADERS, "Cache-Control": caching, "ETag": tag, "Vary": "Accept-Encoding"}
    if tag in (header_of(request, b"if-none-match") or ""):
        return Response(status_code=304, headers=headers)
    content = file.content
    if file.compressed is not None and "gzip" in (header_of(request, b"accept-encoding") or ""):
        content = file.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, headers=headers, media_type=file.media_type)
