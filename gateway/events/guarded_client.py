"""An HTTP client that goes only where it may: not into the server's own network, whatever a name resolves to.

Who may set a webhook, or runs an identity provider, could otherwise have the server ask its neighbours (SSRF). So a
name is resolved once, here, what it resolves to is checked, and the connection goes to that very address: a name that
resolves to something else a moment later (DNS rebinding) changes nothing. The name is still what the certificate is
checked against, and the Host header. Redirects are not followed, proxies of the environment are not used, and little is
read of an answer (`bounded_streams`).
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import httpcore2
import httpx2

from gateway.events.bounded_streams import ANSWER_BYTES, AnswerTooLong, BoundedNetwork, ExtraReads
from gateway.events.dns import RequestFailed, Resolve

ATTEMPT_SECONDS = 15.0
"""Time from the lookup of the name to the end of the answer."""
TEXT_BYTES = 200
"""Bytes of an answer's body that are kept."""
MAX_CONNECTIONS = 8
KEEP_ALIVE_SECONDS = 5.0
"""Time that a connection is kept for the next request."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All that IANA has given out of IPv6 for the internet. Of the rest Python takes some for global that is not, or is a
way to write an IPv4 address: fec0::/10, ::127.0.0.1, ::ffff:0:127.0.0.1, 64:ff9b:1::/48."""


@dataclass(slots=True, frozen=True)
class ReceiverResponse:
    """The answer of a receiver."""

    status: int
    retry_after: str | None
    text: str
    """The beginning of its body."""


class GuardedClient:
    """One for each receiver: its connections are kept, and must not be those of another name."""

    def __init__(
        self,
        allowed: Sequence[Network],
        resolve: Resolve,
        trust: ssl.SSLContext | None = None,
        extra: ExtraReads | None = None,
        *,
        answer_bytes: int = ANSWER_BYTES,
        text_bytes: int = TEXT_BYTES,
        setting: str = "webhook_networks",
    ) -> None:
        """`allowed` are networks that may be asked although they are private, those of the `setting`. Without `trust`
        whoever the system trusts vouches for receivers (or `SSL_CERT_FILE`, as everywhere). `extra` is shared with
        other clients. An answer may have `answer_bytes`, of whose body `text_bytes` are kept."""
        self._allowed = allowed
        self._resolve = resolve
        self._trust = trust
        self._extra = extra if extra is not None else ExtraReads()
        self._answer_bytes = answer_bytes
        self._text_bytes = text_bytes
        self._setting = setting
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> ReceiverResponse:
        """Send a request, and wait for its answer at most ATTEMPT_SECONDS. Raises RequestFailed."""
        return await self._request("POST", url, body, headers)

    async def get(self, url: str, headers: dict[str, str]) -> ReceiverResponse:
        """Ask for a document, and wait for it at most ATTEMPT_SECONDS. Raises RequestFailed."""
        return await self._request("GET", url, b"", headers)

    async def _request(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> ReceiverResponse:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._send(method, httpx2.URL(url), body, headers)
        except TimeoutError:
            raise RequestFailed(f"no answer within {ATTEMPT_SECONDS:.0f} seconds") from None
        except RequestFailed:
            raise
        except AnswerTooLong as error:
            raise RequestFailed(str(error)) from None
        except Exception as error:  # whatever it is, this was an attempt, and the next one may go better
            raise RequestFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None

    async def _send(self, method: str, url: httpx2.URL, body: bytes, headers: dict[str, str]) -> ReceiverResponse:
        if self._pool is None:
            self._pool = httpcore2.AsyncConnectionPool(
                self._trust or _system_trust(),
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=BoundedNetwork(self._extra, self._answer_bytes),
            )
        addresses = await self._addresses(url)
        fields = {"Accept": "*/*", **headers, "Host": url.netloc.decode("ascii"), "Content-Length": str(len(body))}
        for address in addresses:
            request = httpcore2.Request(
                method,
                httpcore2.URL(scheme=url.raw_scheme, host=address, port=url.port, target=url.raw_path),
                headers=list(fields.items()),
                content=body,
                extensions={
                    "sni_hostname": url.host,
                    "timeout": {
                        "connect": ATTEMPT_SECONDS / len(addresses),
                        "read": ATTEMPT_SECONDS,
                        "write": ATTEMPT_SECONDS,
                        "pool": ATTEMPT_SECONDS,
                    },
                },
            )
            try:
                response = await self._pool.handle_async_request(request)
                break
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):  # it has not been asked
                if address == addresses[-1]:
                    raise
        text = b""
        try:
            async for chunk in response.aiter_stream():
                text = (text + chunk)[: self._text_bytes]
        except AnswerTooLong:
            pass  # what it answered is known
        finally:
            await response.aclose()
        retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
        return ReceiverResponse(
            response.status,
            None if retry_after is None else retry_after.decode("latin-1"),
            text.decode(errors="replace"),
        )

    async def _addresses(self, url: httpx2.URL) -> list[str]:
        """Resolve the host of a URL to the addresses that may be asked, at least one. Raises RequestFailed."""
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await self._resolve(url.host, port)
        permitted = [address for address in found if may_be_asked(address, self._allowed)]
        if permitted:
            return permitted
        raise RequestFailed(
            f"{url.host} is {', '.join(found)}, which is private: the setting {self._setting} can allow it"
            if found
            else f"{url.host} has no address"
        )

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """One for all: it is a megabyte."""
    return httpx2.create_ssl_context()


def may_be_asked(text: str, allowed: Sequence[Network]) -> bool:
    """Whether an address is on the public internet, or in a network that is allowed."""
    address: Address = ipaddress.ip_address(text)
    inner = _embedded(address)
    if inner is not None:
        address = inner
    if any(address.version == network.version and address in network for network in allowed):
        return True
    return address.is_global and not address.is_multicast and (address.version == 4 or address in _GLOBAL_UNICAST)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, if it does: whoever routes it arrives there."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo is not None else None)
