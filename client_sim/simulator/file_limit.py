"""File descriptors: a device is one, at the simulator and at the server."""

from __future__ import annotations

import resource


class TooFewFiles(Exception):
    """The message says how many are needed, and what to type."""


def need_files(count: int) -> None:
    """Raise the soft limit of this process and its children to at least so many. Raises TooFewFiles."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise TooFewFiles(
            f"{count:,} open files are needed, and this process may have {hard:,}. Raise the limit and try again: "
            f"`ulimit -Hn {count}` as root (or LimitNOFILE={count} in a systemd unit), or simulate fewer devices."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else hard, hard))
