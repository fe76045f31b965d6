"""Names of operations in the audit log, and the operations that have no entry there, with the reason.

Every operation with another method than GET is in ACTIONS or in UNAUDITED: one that is in neither is answered with 500
to everybody, and a test walks them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class AuditedAction(NamedTuple):
    """The name of an operation in the audit log, with the kind of its object."""

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

ACTIONS: Final[Mapping[Operation, AuditedAction]] = {
    ("post", "/v1/devices"): AuditedAction("device.enrol", "device"),
    ("post", "/v1/devices/bulk"): AuditedAction("device.enrol_many", "device"),
    ("post", "/v1/devices/tags"): AuditedAction("device.change_tags", "device"),
    ("post", "/v1/devices/removal"): AuditedAction("device.remove_many", "device"),
    ("patch", "/v1/devices/{device_id}"): AuditedAction("device.change", "device", "device_id"),
    ("delete", "/v1/devices/{device_id}"): AuditedAction("device.remove", "device", "device_id"),
    ("post", "/v1/devices/{device_id}/token"): AuditedAction("device.rotate_token", "device", "device_id"),
    ("post", "/v1/devices/{device_id}/token/renewal"): AuditedAction("device.renew_token", "device", "device_id"),
    ("delete", "/v1/devices/{device_id}/mailbox"): AuditedAction("device.empty_mailbox", "device", "device_id"),
    ("delete", "/v1/devices/{device_id}/mailbox/{push_id}"): AuditedAction(
        "device.remove_from_mailbox", "device", "device_id"
    ),
    ("patch", "/v1/devices/{device_id}/preferences"): AuditedAction("device.change_preferences", "device", "device_id"),
    ("post", "/v1/devices/{device_id}/call"): AuditedAction("device.call", "device", "device_id", is_push=True),
    ("post", "/v1/enrol"): AuditedAction("device.enrol_by_code", "device"),
    ("post", "/v1/token-requests/{request_id}/confirm"): AuditedAction(
        "token_request.confirm", "token_request", "request_id"
    ),
    ("delete", "/v1/token-requests/{request_id}"): AuditedAction("token_request.refuse", "token_request", "request_id"),
    ("post", "/v1/invitations"): AuditedAction("invitation.create", "batch"),
    ("post", "/v1/invitations/bulk"): AuditedAction("invitation.create_many", "batch"),
    ("delete", "/v1/invitations/{invitation_id}"): AuditedAction("invitation.revoke", "invitation", "invitation_id"),
    ("post", "/v1/pushes"): AuditedAction("push.send", "push", is_push=True),
    ("post", "/v1/pushes/batch"): AuditedAction("push.send_batch", "pushes", is_push=True),
    ("delete", "/v1/pushes/{push_id}"): AuditedAction("push.recall", "push", "push_id"),
    ("post", "/v1/campaigns"): AuditedAction("campaign.create", "campaign"),
    ("post", "/v1/campaigns/{campaign_id}/pause"): AuditedAction("campaign.pause", "campaign", "campaign_id"),
    ("post", "/v1/campaigns/{campaign_id}/resume"): AuditedAction("campaign.resume", "campaign", "campaign_id"),
    ("post", "/v1/campaigns/{campaign_id}/approve"): AuditedAction("campaign.approve", "campaign", "campaign_id"),
    ("post", "/v1/campaigns/{campaign_id}/abort"): AuditedAction("campaign.abort", "campaign", "campaign_id"),
    ("post", "/v1/schedules"): AuditedAction("schedule.create", "schedule"),
    ("patch", "/v1/schedules/{schedule_id}"): AuditedAction("schedule.change", "schedule", "schedule_id"),
    ("post", "/v1/schedules/{schedule_id}/pause"): AuditedAction("schedule.pause", "schedule", "schedule_id"),
    ("post", "/v1/schedules/{schedule_id}/resume"): AuditedAction("schedule.resume", "schedule", "schedule_id"),
    ("post", "/v1/schedules/{schedule_id}/run"): AuditedAction("schedule.run", "schedule", "schedule_id"),
    ("delete", "/v1/schedules/{schedule_id}"): AuditedAction("schedule.cancel", "schedule", "schedule_id"),
    ("delete", "/v1/topics/{topic_name}"): AuditedAction("topic.remove", "topic", "topic_name"),
    ("put", "/v1/topics/{topic_name}/devices"): AuditedAction("topic.add_devices", "topic", "topic_name"),
    ("delete", "/v1/topics/{topic_name}/devices"): AuditedAction("topic.remove_devices", "topic", "topic_name"),
    ("put", "/v1/segments/{segment_name}"): AuditedAction("segment.set", "segment", "segment_name"),
    ("delete", "/v1/segments/{segment_name}"): AuditedAction("segment.remove", "segment", "segment_name"),
    ("post", "/v1/attachments"): AuditedAction("attachment.add", "attachment"),
    ("delete", "/v1/attachments/{attachment_id}"): AuditedAction("attachment.remove", "attachment", "attachment_id"),
    ("put", "/v1/templates/{template_name}"): AuditedAction("template.set", "template", "template_name"),
    ("delete", "/v1/templates/{template_name}"): AuditedAction("template.remove", "template", "template_name"),
    ("post", "/v1/channels"): AuditedAction("channel.create", "channel"),
    ("patch", "/v1/channels/{channel_id}"): AuditedAction("channel.change", "channel", "channel_id"),
    ("delete", "/v1/channels/{channel_id}"): AuditedAction("channel.remove", "channel", "channel_id"),
    ("put", "/v1/policy"): AuditedAction("policy.set", "policy"),
    ("put", "/v1/duties/{duty_name}"): AuditedAction("duty.set", "duty", "duty_name"),
    ("delete", "/v1/duties/{duty_name}"): AuditedAction("duty.remove", "duty", "duty_name"),
    ("put", "/v1/heartbeats/{heartbeat_name}"): AuditedAction("heartbeat.set", "heartbeat", "heartbeat_name"),
    ("delete", "/v1/heartbeats/{heartbeat_name}"): AuditedAction("heartbeat.remove", "heartbeat", "heartbeat_name"),
    ("put", "/v1/watches/{watch_name}"): AuditedAction("watch.set", "watch", "watch_name"),
    ("delete", "/v1/watches/{watch_name}"): AuditedAction("watch.remove", "watch", "watch_name"),
    ("post", "/v1/webhooks"): AuditedAction("webhook.create", "webhook"),
    ("patch", "/v1/webhooks/{webhook_id}"): AuditedAction("webhook.change", "webhook", "webhook_id"),
    ("delete", "/v1/webhooks/{webhook_id}"): AuditedAction("webhook.remove", "webhook", "webhook_id"),
    ("post", "/v1/webhooks/{webhook_id}/secret"): AuditedAction("webhook.rotate_secret", "webhook", "webhook_id"),
    ("post", "/v1/webhooks/{webhook_id}/dead-letters/replay"): AuditedAction("webhook.replay", "webhook", "webhook_id"),
    ("post", "/v1/apps"): AuditedAction("app.create", "app"),
    ("post", "/v1/keys"): AuditedAction("key.create", "key"),
    ("delete", "/v1/keys/{key_id}"): AuditedAction("key.revoke", "key", "key_id"),
    ("post", "/v1/session"): AuditedAction("session.begin", "session"),
    ("delete", "/v1/session"): AuditedAction("session.end", "session"),
}
_STORES_NOTHING: Final = "it stores nothing of what it is asked"
UNAUDITED: Final[Mapping[Operation, str]] = {
    ("post", "/v1/enrol/again"): "a device asks, and what an operator answers has an entry",
    ("post", "/v1/pushes/forecast"): _STORES_NOTHING,
    ("post", "/v1/pushes/preview"): _STORES_NOTHING,
    ("post", "/v1/campaigns/forecast"): _STORES_NOTHING,
    ("post", "/v1/schedules/preview"): _STORES_NOTHING,
    ("post", "/v1/segments/preview"): _STORES_NOTHING,
    ("post", "/v1/webhooks/{webhook_id}/test"): _STORES_NOTHING,
    ("post", "/v1/templates/{template_name}/preview"): _STORES_NOTHING,
}
"""Operation -> the reason why it has no entry."""


def action_of(method: str, path: str) -> AuditedAction | None:
    """Return the action of an operation; None if it is left out. Raises KeyError for one that nobody has thought of."""
    operation = (method.lower(), path)
    return None if operation in UNAUDITED else ACTIONS[operation]
