"""What the audit log calls each operation that may change something, and which operations it leaves out, and why.

Every operation with another method than GET is in ACTIONS or in UNAUDITED: one that is in neither is answered with 500
to everybody, and a test walks them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Action(NamedTuple):
    """How the audit log names an operation, and what it is about."""

    name: str
    kind: str
    """The kind of the object: what is before the colon."""
    parameter: str | None = None
    """The parameter of the path that has the object's id. None: the object has none before it is made."""
    is_push: bool = False
    """Whether it sends pushes. Those that are sent with a key are in the ledger with that key, and have no entry:
    a sender's thousand pushes a second would leave no room for anything else."""


Operation = tuple[str, str]
"""Method in lower case, and path as the OpenAPI document has it."""

ACTIONS: Final[Mapping[Operation, Action]] = {
    ("post", "/v1/devices"): Action("device.enrol", "device"),
    ("post", "/v1/devices/bulk"): Action("device.enrol_many", "device"),
    ("patch", "/v1/devices/{device_id}"): Action("device.change", "device", "device_id"),
    ("delete", "/v1/devices/{device_id}"): Action("device.remove", "device", "device_id"),
    ("post", "/v1/devices/{device_id}/token"): Action("device.rotate_token", "device", "device_id"),
    ("post", "/v1/devices/{device_id}/token/renewal"): Action("device.renew_token", "device", "device_id"),
    ("delete", "/v1/devices/{device_id}/mailbox"): Action("device.empty_mailbox", "device", "device_id"),
    ("patch", "/v1/devices/{device_id}/preferences"): Action("device.change_preferences", "device", "device_id"),
    ("post", "/v1/devices/{device_id}/call"): Action("device.call", "device", "device_id", is_push=True),
    ("post", "/v1/enrol"): Action("device.enrol_by_code", "device"),
    ("post", "/v1/token-requests/{request_id}/confirm"): Action("token_request.confirm", "token_request", "request_id"),
    ("delete", "/v1/token-requests/{request_id}"): Action("token_request.refuse", "token_request", "request_id"),
    ("post", "/v1/invitations"): Action("invitation.create", "batch"),
    ("post", "/v1/invitations/bulk"): Action("invitation.create_many", "batch"),
    ("delete", "/v1/invitations/{invitation_id}"): Action("invitation.revoke", "invitation", "invitation_id"),
    ("post", "/v1/pushes"): Action("push.send", "push", is_push=True),
    ("post", "/v1/pushes/batch"): Action("push.send_batch", "pushes", is_push=True),
    ("delete", "/v1/pushes/{push_id}"): Action("push.recall", "push", "push_id"),
    ("post", "/v1/campaigns"): Action("campaign.create", "campaign"),
    ("post", "/v1/campaigns/{campaign_id}/pause"): Action("campaign.pause", "campaign", "campaign_id"),
    ("post", "/v1/campaigns/{campaign_id}/resume"): Action("campaign.resume", "campaign", "campaign_id"),
    ("post", "/v1/campaigns/{campaign_id}/approve"): Action("campaign.approve", "campaign", "campaign_id"),
    ("post", "/v1/campaigns/{campaign_id}/abort"): Action("campaign.abort", "campaign", "campaign_id"),
    ("post", "/v1/schedules"): Action("schedule.create", "schedule"),
    ("patch", "/v1/schedules/{schedule_id}"): Action("schedule.change", "schedule", "schedule_id"),
    ("post", "/v1/schedules/{schedule_id}/pause"): Action("schedule.pause", "schedule", "schedule_id"),
    ("post", "/v1/schedules/{schedule_id}/resume"): Action("schedule.resume", "schedule", "schedule_id"),
    ("post", "/v1/schedules/{schedule_id}/run"): Action("schedule.run", "schedule", "schedule_id"),
    ("delete", "/v1/schedules/{schedule_id}"): Action("schedule.cancel", "schedule", "schedule_id"),
    ("delete", "/v1/topics/{topic_name}"): Action("topic.remove", "topic", "topic_name"),
    ("put", "/v1/topics/{topic_name}/devices"): Action("topic.add_devices", "topic", "topic_name"),
    ("delete", "/v1/topics/{topic_name}/devices"): Action("topic.remove_devices", "topic", "topic_name"),
    ("put", "/v1/segments/{segment_name}"): Action("segment.set", "segment", "segment_name"),
    ("delete", "/v1/segments/{segment_name}"): Action("segment.remove", "segment", "segment_name"),
    ("post", "/v1/attachments"): Action("attachment.add", "attachment"),
    ("delete", "/v1/attachments/{attachment_id}"): Action("attachment.remove", "attachment", "attachment_id"),
    ("put", "/v1/templates/{template_name}"): Action("template.set", "template", "template_name"),
    ("delete", "/v1/templates/{template_name}"): Action("template.remove", "template", "template_name"),
    ("post", "/v1/channels"): Action("channel.create", "channel"),
    ("patch", "/v1/channels/{channel_id}"): Action("channel.change", "channel", "channel_id"),
    ("delete", "/v1/channels/{channel_id}"): Action("channel.remove", "channel", "channel_id"),
    ("put", "/v1/policy"): Action("policy.set", "policy"),
    ("put", "/v1/duties/{duty_name}"): Action("duty.set", "duty", "duty_name"),
    ("delete", "/v1/duties/{duty_name}"): Action("duty.remove", "duty", "duty_name"),
    ("put", "/v1/heartbeats/{heartbeat_name}"): Action("heartbeat.set", "heartbeat", "heartbeat_name"),
    ("delete", "/v1/heartbeats/{heartbeat_name}"): Action("heartbeat.remove", "heartbeat", "heartbeat_name"),
    ("put", "/v1/watches/{watch_name}"): Action("watch.set", "watch", "watch_name"),
    ("delete", "/v1/watches/{watch_name}"): Action("watch.remove", "watch", "watch_name"),
    ("post", "/v1/webhooks"): Action("webhook.create", "webhook"),
    ("patch", "/v1/webhooks/{webhook_id}"): Action("webhook.change", "webhook", "webhook_id"),
    ("delete", "/v1/webhooks/{webhook_id}"): Action("webhook.remove", "webhook", "webhook_id"),
    ("post", "/v1/webhooks/{webhook_id}/secret"): Action("webhook.rotate_secret", "webhook", "webhook_id"),
    ("post", "/v1/webhooks/{webhook_id}/dead-letters/replay"): Action("webhook.replay", "webhook", "webhook_id"),
    ("post", "/v1/apps"): Action("app.create", "app"),
    ("post", "/v1/keys"): Action("key.create", "key"),
    ("delete", "/v1/keys/{key_id}"): Action("key.revoke", "key", "key_id"),
}
_STORES_NOTHING: Final = "it stores nothing of what it is asked"
UNAUDITED: Final[Mapping[Operation, str]] = {
    ("post", "/v1/enrol/again"): "a device asks, and what an operator answers has an entry",
    ("post", "/v1/pushes/forecast"): _STORES_NOTHING,
    ("post", "/v1/campaigns/forecast"): _STORES_NOTHING,
    ("post", "/v1/schedules/preview"): _STORES_NOTHING,
    ("post", "/v1/segments/preview"): _STORES_NOTHING,
    ("post", "/v1/templates/{template_name}/preview"): _STORES_NOTHING,
}
"""Operation -> the reason why it has no entry."""


def action_of(method: str, path: str) -> Action | None:
    """Return the action of an operation; None if it is left out. Raises KeyError for one that nobody has thought of."""
    operation = (method.lower(), path)
    return None if operation in UNAUDITED else ACTIONS[operation]
