"""Fields of a push that say which texts its devices get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from gateway.content.locales import MAX_LOCALES, LocaleName
from gateway.described_model import DescribedModel
from gateway.names import Name

MAX_VERSIONS_MADE = 1_000_000_000
"""A billion versions, one a second, take thirty years."""
RenderMode = Literal["liquid"]
OnMissing = Literal["refuse", "leave_out"]


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LocalizedText(_Strict):
    """Texts of a notification in one language. What is left out is that of the next locale that fits: `de-AT`, `de`,
    `default`, and the notification itself at last."""

    title: str | None = None
    """The first line."""
    body: str | None = None
    """The text below it."""
    image: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Whole address of a picture, or `attachment:ID` of an upload; at most 2,048 characters."""
    url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Address that the device opens when the person opens the notification, at most 2,048 characters."""
    actions: dict[str, Annotated[str, StringConstraints(min_length=1, max_length=128)]] | None = None
    """Titles of the notification's actions, 1 to 128 characters each, by the action's id."""

    @model_validator(mode="after")
    def _has_text(self) -> LocalizedText:
        if not any(self.__dict__.values()):
            raise ValueError('give at least one of "title", "body", "image", "url" or "actions"')
        return self


LocalizedTexts = Annotated[dict[LocaleName, LocalizedText], Field(min_length=1, max_length=MAX_LOCALES)]


class TemplateUse(_Strict):
    """A saved template, and what it is given."""

    name: Name
    """The template's name. The app has none of it: 404 `template_not_found`."""
    version: Annotated[int, Field(ge=1, le=MAX_VERSIONS_MADE)] | None = None
    """A version of it that is still kept. Left out: the newest."""
    values: dict[str, Any] | None = None
    """Values that its texts read as `values.NAME`, besides those that it has itself. Devices are not sent them."""

    @classmethod
    def from_name(cls, value: Any) -> Any:
        """A use as it is given: an object, or the name alone."""
        return {"name": value} if isinstance(value, str) else value


def unknown_actions(texts: Mapping[str, LocalizedText], actions: set[str]) -> str | None:
    """The first id for which a text has a title and the notification no action; None if there is none."""
    for text in texts.values():
        for action_id in text.actions or ():
            if action_id not in actions:
                return action_id
    return None
