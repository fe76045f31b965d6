"""The content of a saved template: what a push has that is made with it and does not say otherwise.

It has the fields of a push but for its target and what belongs to a single sending. Its texts are templates in Liquid.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from gateway.content.documents import NOTHING, Document, DocumentFault, compile_document
from gateway.content.text_fields import LocalizedText, LocalizedTexts, OnMissing
from gateway.delivery.notification import Notification
from gateway.delivery.push import MAX_TTL_SECONDS, Kind, PushRequest, check_actions, check_kind
from gateway.described_model import DescribedModel
from gateway.errors import problem
from gateway.names import Name
from gateway.printable import Printable

SCALARS = ("kind", "channel", "priority", "qos", "ttl", "collapse_key", "deadline", "on_missing")
"""Fields that a push has from its template, unless it has them itself."""


class TemplateFields(DescribedModel):
    """A template: the content of pushes. Its texts are Liquid, and read `device`, `data` and `values`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    description: Annotated[Printable, StringConstraints(max_length=512)] | None = None
    """Text about the template for people, at most 512 characters."""
    kind: Kind | None = None
    """Kind of the push. Left out: `alert` if there is something to show, else `silent`."""
    notification: Notification | None = None
    """Content that the person sees. A push's own replaces it member by member."""
    texts: LocalizedTexts | None = None
    """Texts of the notification in other languages, by locale (1 to 100). A push's own replace them by locale."""
    data: Any = None
    """Any JSON for the device's program. A push's own replaces it."""
    values: dict[str, Any] | None = None
    """Values that its texts read as `values.NAME`, when a push gives no others."""
    channel: Name | None = None
    """Channel of the push."""
    priority: Literal["critical", "high", "normal", "low"] | None = None
    """Priority of the push. Left out: `normal`."""
    qos: Literal[0, 1, 2] | None = None
    """MQTT QoS of the push, 0 to 2. Left out: 1."""
    ttl: Annotated[int, Field(ge=0, le=MAX_TTL_SECONDS)] | None = None
    """Time to live of the push in seconds. Left out: 86,400."""
    collapse_key: Annotated[Printable, StringConstraints(min_length=1, max_length=64)] | None = None
    """Collapse key of the push."""
    deadline: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Seconds that the device has for the result of a `command`."""
    on_missing: OnMissing | None = None
    """What happens when a device lacks what a text needs: `refuse` or `leave_out`. Left out: `refuse`."""

    @model_validator(mode="after")
    def _fits(self) -> TemplateFields:
        shows = self.notification is not None or self.texts is not None
        if self.kind is not None:
            check_kind(self.kind, shows, self.deadline)
        if self.texts is not None:
            check_actions(self.texts, self.notification)
        return self

    async def document(self) -> Document:
        """Compile it. Raises DocumentFault."""
        return await compile_document(
            notification=members_of(self.notification),
            texts=texts_of(self.texts),
            data=self.data if "data" in self.__pydantic_fields_set__ else NOTHING,
            values=self.values,
            is_liquid=True,
        )


async def saved_content(fields: TemplateFields) -> str:
    """Check a template, and encode it as it is saved. Raises Problem 422."""
    try:
        await fields.document()
        return fields.model_dump_json(exclude_unset=True)
    except DocumentFault as fault:
        raise problem("template_error", str(fault)) from None
    except (ValueError, RecursionError):
        raise problem("invalid_request", "it cannot be written as JSON in UTF-8: send it without") from None


def merged_fields(request: PushRequest | None, template: TemplateFields | None) -> dict[str, Any]:
    """The fields of a push besides its content: its own, else its template's, else the defaults."""
    fields: dict[str, Any] = {}
    given = set() if request is None else request.__pydantic_fields_set__
    for name in SCALARS:
        value = None if template is None else getattr(template, name)
        if name in given:
            value = getattr(request, name)
        fields[name] = PushRequest.model_fields[name].default if value is None and name not in given else value
    return fields


def members_of(notification: Notification | None) -> dict[str, Any] | None:
    """The members of a notification that are there."""
    return None if notification is None else notification.model_dump(exclude_none=True)


def texts_of(texts: dict[str, LocalizedText] | None) -> dict[str, Any]:
    """The members of texts that are there, by locale."""
    return {locale: text.model_dump(exclude_none=True) for locale, text in (texts or {}).items()}
