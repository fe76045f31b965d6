"""Names and addresses of this machine: what a server certificate is made out to when nobody says more.

The names are the host's and, where its resolver knows a longer one, that; the addresses are those that the name
resolves to and those of the interfaces. Nothing leaves the machine but the look-up of its own name. Which of the names
devices will dial cannot be known from inside (a router may translate, a balancer stand in front): `--name` says it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

SIOCGIFADDR = 0x8915
"""netdevice(7): the IPv4 address of an interface, in the `ifreq` that named it."""
_IFREQ = struct.Struct("16s4x4s232x")
"""Name; family and port; address. Longer than the kernel's, which fills what it knows."""
IF_INET6 = Path("/proc/net/if_inet6")
"""proc(5): one line for each IPv6 address: address, index, prefix length, scope, flags, name."""
GLOBAL_SCOPE = 0x00
"""The scope of addresses that other machines can dial without naming an interface of theirs, which a link-local one
needs."""
TEMPORARY = 0x01
"""A privacy address of RFC 8981: gone in a day, and no address of a server."""
LOOPBACK = ("127.0.0.1", "::1")


def host_names() -> list[str]:
    """Names, `localhost` the last of them, then addresses, loopback last; the best one to dial first."""
    host = socket.gethostname()
    canonical, resolved = _resolved(host)
    names = [name for name in (canonical, host) if name and not name.startswith("localhost")]
    addresses = [address for address in (*interface_addresses(), *resolved) if not is_loopback(address)]
    return list(dict.fromkeys([*names, "localhost", *addresses, *LOOPBACK]))


def is_loopback(host: str) -> bool:
    """Whether a name or an address leads to this machine itself, wherever it is dialled."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def interface_addresses() -> list[str]:
    """The addresses of this machine's interfaces; none where Linux does not tell them."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, _IFREQ.pack(name.encode(), b""))
            except OSError:  # it has none
                continue
            found.append(socket.inet_ntop(socket.AF_INET, _IFREQ.unpack(answer)[1]))
    try:
        lines = IF_INET6.read_text().splitlines()
    except OSError:  # no IPv6 here
        return found
    for line in lines:
        address, _, _, scope, flags, _ = line.split()
        if int(scope, 16) == GLOBAL_SCOPE and not int(flags, 16) & TEMPORARY:
            found.append(str(ipaddress.IPv6Address(bytes.fromhex(address))))
    return found


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def reachable(host: str) -> str:
    """An address of this machine for who is on it."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, bracketed(host))


def _resolved(host: str) -> tuple[str | None, list[str]]:
    """The longer name of a host and its addresses, in one look-up, as `hostname --fqdn` has it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except OSError:
        return None, []
    # A link-local address comes as ADDRESS%INTERFACE.
    addresses = [str(address[0]) for *_, address in found if "%" not in str(address[0])]
    return (found[0][3] if "." in found[0][3] else None), addresses
