"""Names that an app gives: to tags, topics, segments, channels, actions, commands, templates, duties and watches."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

NAME_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
