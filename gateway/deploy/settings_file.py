"""The file of settings that a package comes with: every setting with its description, and its default behind a `#`.

Made of the same descriptions as the flags of `serve` and the reference page. Whoever takes a `#` away has said what the
server does anyway, and changes it from there. A setting without a default has the kind of its value in its place.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from gateway.settings import PREFIX, Setting, described_settings

WIDTH_COLUMNS = 100
HEADING = f"""\
# Settings of Fleetpush. The command `doctor` checks them, and a restart of the server applies them.
#
# A flag of the server wins over a variable of its environment ({PREFIX}NAME), which wins over this file. Bytes are a
# number, or a text with a unit: "32 MiB". Lines behind `#` show the defaults.
"""


def settings_file(chosen: Mapping[str, str]) -> str:
    """Return the text of the file. The `chosen` settings have their value there, given as TOML writes it, instead of
    the default behind a `#`."""
    settings = described_settings()
    unknown = chosen.keys() - {setting.name for setting in settings}
    assert not unknown, f"no such settings: {unknown}"
    return "\n".join([HEADING, *(_paragraph(setting, chosen.get(setting.name)) for setting in settings)])


def _paragraph(setting: Setting, chosen: str | None) -> str:
    text = textwrap.fill(setting.text, WIDTH_COLUMNS, initial_indent="# ", subsequent_indent="# ")
    line = f"#{setting.name} = {_default(setting)}" if chosen is None else f"{setting.name} = {chosen}"
    return f"{text}\n{line}\n"


def _default(setting: Setting) -> str:
    """The default as TOML writes it."""
    if setting.default == "unset":
        return "[]" if setting.values == "list" else f'"{setting.values.upper()}"'
    if setting.values == "on or off":
        return "true" if setting.default == "on" else "false"
    if setting.values in ("whole number", "number"):
        return setting.default.replace(",", "")
    return '"{}"'.format(setting.default.strip("`"))
