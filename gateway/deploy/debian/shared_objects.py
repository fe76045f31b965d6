"""The libraries of the system that compiled modules need, read from the ELF files themselves.

dpkg-shlibdeps would say the same, and needs a list of every library's symbols, which is there where development
packages are. Wheels of others are made for any Linux: they bring along what is not named here. So a library without a
row below is a mistake that ends the build.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

LIBRARIES = {
    "ld-linux-aarch64.so.1": "libc6",
    "ld-linux-x86-64.so.2": "libc6",
    "libc.so.6": "libc6",
    "libdl.so.2": "libc6",
    "libm.so.6": "libc6",
    "libpthread.so.0": "libc6",
    "librt.so.1": "libc6",
    "libutil.so.1": "libc6",
    "libgcc_s.so.1": "libgcc-s1",
    "libstdc++.so.6": "libstdc++6",
}
"""Library -> its Debian package."""
MAGIC = b"\x7fELF\x02\x01"
"""An ELF file of 64 bits, the least significant byte first: amd64, arm64 and all else that servers are made of."""
SEGMENT = struct.Struct("<IIQQQQQQ")
LOADED_SEGMENT, DYNAMIC_SEGMENT = 1, 2
NEEDED_ENTRY, STRINGS_ENTRY = 1, 5
LIBC_VERSION = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)")


class UnknownLibrary(Exception):
    """A compiled module needs a library whose package nobody has named; the text says which."""


def packages_needed(folder: Path) -> list[str]:
    """Return the packages that the compiled modules below `folder` need, as a control file writes them. Raises
    UnknownLibrary."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    objects = {path: content for path in files if (content := _content(path)) is not None}
    own = {path.name for path in objects}
    found: set[str] = set()
    for path, content in objects.items():
        for library in _needed(content):
            if library not in LIBRARIES and library not in own:
                raise UnknownLibrary(f"{path} needs {library}: name its Debian package in {__file__}")
            found.update({LIBRARIES[library]} if library in LIBRARIES else ())
    version = _libc_version(objects.values())
    return sorted(f"{package} (>= {version})" if package == "libc6" else package for package in found)


def _content(path: Path) -> bytes | None:
    """The bytes of an ELF file; None of all others."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        return start + file.read() if start == MAGIC else None


def _needed(content: bytes) -> Iterator[str]:
    """The names of the libraries that an ELF file asks for."""
    (offset,), (size, count) = struct.unpack_from("<Q", content, 32), struct.unpack_from("<HH", content, 54)
    segments = [SEGMENT.unpack_from(content, offset + size * number) for number in range(count)]
    loaded = [(address, place, length) for kind, _, place, address, _, length, *_ in segments if kind == LOADED_SEGMENT]
    for kind, _, place, _, _, length, *_ in segments:
        if kind == DYNAMIC_SEGMENT:
            entries = [*struct.iter_unpack("<qQ", content[place : place + length])]
            (strings,) = (value for tag, value in entries if tag == STRINGS_ENTRY)
            start = next(at + strings - first for first, at, long in loaded if first <= strings < first + long)
            for tag, value in entries:
                if tag == NEEDED_ENTRY:
                    name = start + value
                    yield content[name : content.index(b"\0", name)].decode()


def _libc_version(contents: Iterable[bytes]) -> str:
    """The oldest libc that has everything that they ask for."""
    versions = [(int(major), int(minor)) for content in contents for major, minor in LIBC_VERSION.findall(content)]
    major, minor = max(versions, default=(2, 17))
    return f"{major}.{minor}"
