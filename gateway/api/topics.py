"""`/v1/topics`: lists of devices that the server keeps, to which pushes are sent."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from gateway.api import responses
from gateway.api.bodies import json_response, page_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import Cursor, DeviceManager, DeviceReader, Limit, TopicName, services
from gateway.delivery.push import MAX_DEVICES, DeviceId
from gateway.delivery.reports import cursor_number
from gateway.described_model import DescribedModel
from gateway.errors import Problem

MEMBERS_BYTES = 1024 * 1024
"""Bytes of a list of device ids: 10,000 of the longest."""
router = APIRouter(prefix="/v1/topics", tags=["topics"])


class TopicMembers(DescribedModel):
    """Devices that are to join a topic, or to leave it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    devices: Annotated[list[DeviceId], Field(min_length=1, max_length=MAX_DEVICES)]
    """1 to 10,000 devices by id; more: 422 `invalid_request`."""


@router.get("", response_model=responses.TopicsResponse)
async def list_topics(request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the topics that any device of the app is in, by name. Needs a key with the scope `devices` or `read`."""
    return json_response(await services(request).topics.page(principal.app_no, limit, cursor))


@router.get("/{topic_name}", response_model=responses.TopicResponse)
async def show_topic(topic_name: TopicName, request: Request, principal: DeviceReader) -> Response:
    """Show how many devices are in a topic. Needs a key with the scope `devices` or `read`."""
    return json_response(await services(request).topics.show(principal.app_no, topic_name))


@router.delete("/{topic_name}", response_model=responses.RemovedTopicResponse)
async def remove_topic(topic_name: TopicName, request: Request, principal: DeviceManager) -> Response:
    """Have all devices leave a topic, some thousand at a time. What was sent to it goes on. Needs a key with the scope
    `devices`."""
    return json_response({"left": await services(request).topics.remove(principal.app_no, topic_name)})


@router.get("/{topic_name}/devices", response_model=responses.TopicMembersResponse)
async def list_members(
    topic_name: TopicName, request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the devices of a topic in the order of their enrolment. Needs a key with the scope `devices` or `read`."""
    after = cursor_number(cursor) or 0
    return page_response(await services(request).topics.members(principal.app_no, topic_name, limit, after))


@router.put(
    "/{topic_name}/devices", response_model=responses.MembershipsResponse, openapi_extra=request_body(TopicMembers)
)
async def add_members(topic_name: TopicName, request: Request, principal: DeviceManager) -> Response:
    """Have up to 10,000 devices join a topic; one result for each, in order. A topic need not be made.

    Devices join some thousand at a time: if the server ends half way, those have. An app has 10,000 topics, and a
    device is in 256, at most. Needs a key with the scope `devices`.
    """
    return await _change(request, principal.app_no, topic_name, True)


@router.delete(
    "/{topic_name}/devices", response_model=responses.MembershipsResponse, openapi_extra=request_body(TopicMembers)
)
async def remove_members(topic_name: TopicName, request: Request, principal: DeviceManager) -> Response:
    """Have up to 10,000 devices leave a topic; one result for each, in order. Needs a key with the scope `devices`."""
    return await _change(request, principal.app_no, topic_name, False)


async def _change(request: Request, app_no: int, topic: str, join: bool) -> Response:
    found = services(request)
    members = await read_model(request, TopicMembers, MEMBERS_BYTES, MAX_DEVICES + 3)
    results = await found.topics.change_members(app_no, topic, members.devices, join)
    items: list[dict[str, Any]] = []
    for device_id, result in zip(members.devices, results, strict=True):
        outcome = {"error": result.document()} if isinstance(result, Problem) else {"result": result}
        items.append({"device_id": device_id, **outcome})
    return json_response({"topic": topic, "devices": items})
