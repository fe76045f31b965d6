"""A browser's way through a sign-in: its stages, how it fails, and where it ends.

What the provider is asked is in `oidc_sign_in`, which is loaded where there is a provider: it takes cryptography, which
no other server needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gateway.auth import Principal
from gateway.printable import UNPRINTABLE

SIGN_IN_SECONDS: Final = 600
"""Time for a person to sign in at the provider."""
RETURN_CHARACTERS: Final = 1_024
"""Characters of a page's address that a sign-in comes back to; a longer one is forgotten, for the cookie's sake."""
START: Final = "/console/"
_RETURN_PATH: Final = re.compile(r"/console/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*(\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")


class SignInFailed(Exception):
    """A sign-in that ends without a session. `code` is for the person, the text for the operator's log."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True, frozen=True)
class BegunSignIn:
    """A sign-in on its way to the provider."""

    address: str
    """Where the browser goes."""
    cookie: str
    """What it keeps meanwhile."""


@dataclass(slots=True, frozen=True)
class FinishedSignIn:
    """A person who came back."""

    principal: Principal
    to: str
    """The page of the console that the person came from."""
    before: str | None
    """The value of the session's cookie that the browser had when the sign-in began. At the return it does not send it:
    a provider leads there, and the cookie is for our own pages alone."""


def return_path(to: str | None) -> str | None:
    """Return the page that a sign-in comes back to; None for what is no page of the console. A browser reads a
    backslash as a slash, and removes dots, so neither may be in it."""
    if to is None:
        return START
    path = unquote(to.partition("?")[0])
    *folders, last = path.removeprefix(START).split("/")
    is_odd = "" in folders or {".", ".."} & {*folders, last} or "\\" in path or UNPRINTABLE.search(path) is not None
    if is_odd or _RETURN_PATH.fullmatch(to) is None:
        return None
    return to if len(to) <= RETURN_CHARACTERS else START
