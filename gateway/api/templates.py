"""`/v1/templates`: contents of pushes by name, and how a device would get them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import ConfigDict

from gateway.api import responses
from gateway.api.bodies import json_response, page_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import (
    NAME_LETTERS,
    Administrator,
    Cursor,
    Limit,
    ReaderOf,
    TemplateName,
    app_of,
    services,
)
from gateway.content.text_fields import MAX_VERSIONS_MADE
from gateway.delivery.push import DeviceId
from gateway.delivery.push_template import TemplateFields, saved_content
from gateway.described_model import DescribedModel
from gateway.names import NAME_PATTERN
from gateway.store.content.templates import SavedTemplate
from gateway.timestamps import rfc3339

router = APIRouter(prefix="/v1/templates", tags=["templates"])

NewTemplateName = Annotated[str, Path(pattern=NAME_PATTERN, description=f"The template's name: {NAME_LETTERS}.")]
Version = Annotated[
    int,
    Path(
        ge=1, le=MAX_VERSIONS_MADE, description="A version's number, from 1 on. The newest 20 are kept, others are 404."
    ),
]


class Preview(DescribedModel):
    """A device and values, to render a template with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device: DeviceId
    """The device for which it is rendered. Unknown: 404 `device_not_found`."""
    version: int | None = None
    """A version that is still kept. Left out: the newest."""
    values: dict[str, Any] | None = None
    """Values that its texts read as `values.NAME`, besides those that it has itself."""
    data: Any = None
    """Data instead of the template's. Left out: the template's."""


@router.put("/{template_name}", response_model=responses.TemplateResponse, openapi_extra=request_body(TemplateFields))
async def set_template(template_name: NewTemplateName, request: Request, principal: Administrator) -> Response:
    """Save a template: a new version, unless the newest has the same content.

    Pushes are made with the newest from now on; the 20 newest versions are kept. An app has 500 templates at most, of
    128 KiB each and of 16 MiB together with all their versions. Needs a key with the scope `admin`.
    """
    fields = await read_model(request, TemplateFields)
    content = await saved_content(fields)
    return json_response(_described(await services(request).templates.put(principal.app_no, template_name, content)))


@router.get("", response_model=responses.TemplatesResponse)
async def list_templates(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the templates of the app by name. Needs a key with the scope `read`."""
    return page_response(await services(request).templates.page(principal.app_no, limit, cursor))


@router.get("/{template_name}", response_model=responses.TemplateWithVersionsResponse)
async def show_template(template_name: TemplateName, request: Request, principal: ReaderOf) -> Response:
    """Show the newest version of a template, and which versions are kept. Needs a key with the scope `read`."""
    templates = services(request).templates
    newest = _described(await templates.get(principal.app_no, template_name))
    return json_response({**newest, "versions": await templates.versions(principal.app_no, template_name)})


@router.get("/{template_name}/versions/{version}", response_model=responses.TemplateResponse)
async def show_version(
    template_name: TemplateName, version: Version, request: Request, principal: ReaderOf
) -> Response:
    """Show a version of a template. Needs a key with the scope `read`."""
    return json_response(_described(await services(request).templates.get(principal.app_no, template_name, version)))


@router.delete("/{template_name}", status_code=204)
async def remove_template(template_name: TemplateName, request: Request, principal: Administrator) -> Response:
    """Remove a template with all its versions. What was sent with it stays as it was. Needs a key with the scope
    `admin`."""
    await services(request).templates.remove(principal.app_no, template_name)
    return Response(status_code=204)


@router.post("/{template_name}/preview", response_model=responses.PreviewResponse, openapi_extra=request_body(Preview))
async def preview_template(template_name: TemplateName, request: Request, principal: ReaderOf) -> Response:
    """Render a template for a device, as a push would be; nothing is sent.

    What the device lacks is listed, and the push is null then. Needs a key with the scope `read`.
    """
    preview = await read_model(request, Preview)
    found = services(request)
    has_data = "data" in preview.model_fields_set
    saved = await found.templates.get(principal.app_no, template_name, preview.version)
    number = await found.devices.number(principal.app_no, preview.device)
    rendered = await found.texts.preview(
        app_of(principal), saved, number, preview.values, {"data": preview.data} if has_data else {}
    )
    return json_response({"device_id": preview.device, **rendered})


def _described(saved: SavedTemplate) -> dict[str, Any]:
    fields = TemplateFields.model_validate_json(saved.content).model_dump(mode="json", exclude_unset=True)
    return {
        "name": saved.name,
        "version": saved.version,
        "content": fields,
        "created_at": rfc3339(saved.created_at),
    }
