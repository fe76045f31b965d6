"""Responses about saved templates."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response
from gateway.api.responses.pushes import TemplateUseResponse


class TemplateResponse(Response):
    """A version of a template."""

    name: str
    """The template's name, by which pushes are made with it."""
    version: int
    """The number of the version, from 1 on."""
    content: dict[str, Any]
    """The content of pushes that are made with it, as it was saved."""
    created_at: str
    """When the version was saved. RFC 3339, UTC, milliseconds."""


class KeptVersionResponse(Response):
    """A version of a template that is kept."""

    version: int
    """Its number."""
    created_at: str
    """When it was saved. RFC 3339, UTC, milliseconds."""


class TemplateWithVersionsResponse(TemplateResponse):
    """The newest version of a template, and which others there are."""

    versions: list[KeptVersionResponse]
    """The versions that are kept, the newest first."""


class ListedTemplateResponse(Response):
    """A template in a list."""

    name: str
    """The template's name."""
    version: int
    """The number of its newest version."""
    size: int
    """Bytes of that."""
    created_at: str
    """When it was first saved. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When its newest version was saved. RFC 3339, UTC, milliseconds."""


class TemplatesResponse(PageResponse):
    """A page of templates."""

    items: list[ListedTemplateResponse]
    """Templates, by name."""


class MissingInPreviewResponse(Response):
    """A variable that a text needs and the device lacks."""

    variable: str
    """The variable, such as `device.attributes.floor`."""
    where: str
    """The first text that needs it, such as `notification.title`."""


class PreviewResponse(Response):
    """A template, or a push, as a device would get it."""

    device_id: str
    """The device for which it was rendered."""
    template: TemplateUseResponse | None
    """The version that was rendered. null: the push is made without a template."""
    push: dict[str, Any] | None
    """The fields that the push would have. null: the device lacks something."""
    size: int | None
    """Bytes on the wire, at most. null: the device lacks something."""
    missing: list[MissingInPreviewResponse]
    """What the device lacks."""
