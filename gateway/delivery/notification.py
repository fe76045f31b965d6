"""The notification of a push: what a person sees, and what they can choose."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from gateway.described_model import DescribedModel
from gateway.names import Name

MAX_ACTIONS = 8
"""More than any platform draws on a notification (Android 3, iOS 4), with room for media controls."""


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Action(_Strict):
    """A button of a notification. Choosing it is reported with the receipt `acted`."""

    id: Name
    """The action's id, unique within the notification: what the receipt names. `consent.granted` and `consent.denied`
    also record the person's consent."""
    title: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """The text of the button, 1 to 128 characters."""
    icon: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Address of a picture for the button, or `attachment:ID` of an upload; at most 2,048 characters."""
    url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Address that the device opens when the action is chosen, at most 2,048 characters."""
    command: Name | None = None
    """Command that the device carries out when the action is chosen. Left out: what the device has for the id."""
    input: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """A question, 1 to 128 characters: the person answers it with a text, which is the receipt's `result`."""


ACTION_SETS: dict[str, tuple[tuple[str, str], ...]] = {
    "media": (("play", "Play"), ("pause", "Pause"), ("next", "Next")),
    "consent": (("consent.granted", "Allow"), ("consent.denied", "Not now")),
}
"""Ready ones, by name: (id, title) each."""


def _fetched(url: str) -> str:
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):  # RFC 3986, 3.1: relative to what?
        raise ValueError("must be a whole address, such as https://example.org/menu.png, or attachment:ID of an upload")
    return url


Fetched = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_fetched)]
"""An address that a device fetches by itself; or `attachment:ID`, of an upload."""


class Enclosure(_Strict):
    """A file that belongs to a notification."""

    url: Fetched
    """Whole address of the file, or `attachment:ID` of an upload; at most 2,048 characters."""
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """File name for the person, 1 to 128 characters."""
    content_type: Annotated[str, StringConstraints(max_length=128)] | None = None
    """Media type, such as `application/pdf`; at most 128 characters."""
    size: Annotated[int, Field(ge=0)] | None = None
    """Size in bytes, 0 or more. For the person only: it is not compared with the file."""


class Notification(_Strict):
    """Content that a person sees. It needs a `title` or a `body`."""

    title: str | None = None
    """The first line. Its length is bounded by the size of the push only."""
    body: str | None = None
    """The text. Its length is bounded by the size of the push only."""
    image: Fetched | None = None
    """Whole address of a picture that the device fetches, or `attachment:ID` of an upload; at most 2,048 characters."""
    url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Address that the device opens when the person opens the notification, at most 2,048 characters."""
    sound: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Name of a sound on the device, at most 256 characters. Left out: the device decides."""
    attachment: Enclosure | None = None
    """A file that the person can open."""
    actions: Annotated[list[Action], Field(max_length=MAX_ACTIONS)] | None = None
    """At most 8 buttons; or, instead of the list, the name of a ready set: `media` (play, pause, next) or `consent`
    (allow, not now)."""
    expires: Literal["screen"] | None = None
    """`screen`: the device also removes it from the screen when its ttl is over. Left out: the ttl ends what has not
    arrived, and what is shown stays until the person answers it."""

    @field_validator("actions", mode="before")
    @classmethod
    def _ready_made(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in ACTION_SETS:
            raise ValueError(f"a list of actions, or the name of a set: {', '.join(ACTION_SETS)}")
        return [{"id": action_id, "title": title} for action_id, title in ACTION_SETS[value]]

    @model_validator(mode="after")
    def _has_text(self) -> Notification:
        if not (self.title or self.body):
            raise ValueError('a notification needs a "title" or a "body"')
        ids = [action.id for action in self.actions or ()]
        if len(set(ids)) != len(ids):
            raise ValueError("two actions have the same id")
        return self
