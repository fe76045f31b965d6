"""The address that a QR code holds: where to enrol, with which code, and whom to trust there.

    https://push.example:8080/enrol#K7QF-2M9T-4XWA-0HZP
    https://push.example:8080/enrol#K7QF-2M9T-4XWA-0HZP.47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU

What is behind `#` is sent to no server by whoever opens the address. The second part is there if the server's
certificate is signed by the fleet's own CA: SHA-256 of that CA's certificate (DER) in base64url. A device that has seen
nothing but this label fetches the CA from a server that it does not trust yet, compares, and trusts that CA and nothing
else from then on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PATH: Final = "/enrol"
"""The path of a page for people who open the address in a browser."""


class FleetCa(NamedTuple):
    """The CA that has signed what the server shows, if it is the fleet's own."""

    pem: str
    fingerprint: str
    """SHA-256 of the certificate, base64url without padding: 43 characters."""


def code_address(server: str, code: str, ca: FleetCa | None) -> str:
    """Return the address for a QR code. `server` is the address of the HTTP port."""
    return f"{server}{PATH}#{code}" + ("" if ca is None else f".{ca.fingerprint}")
