"""Rendering the texts of a push: what it says, to which of its devices, before it is stored.

A composed push is put together of its saved template and its own fields, its devices are grouped by what its texts read
of them (`content/device_values`), and each group is rendered once. What comes out is checked like a push that was sent
as it is, and equal texts are merged: the store is given texts with the devices of each (`PreparedText`).

Laws
1. Nobody waits for a rendering: it is done on the loop in slices of SLICE_SECONDS, one slice of all renderings in a
   turn, and a push that takes RENDER_SECONDS is refused.
2. A device gets a text as it was rendered for it, or none. What is missing is said, with the devices that lack it.
3. What is rendered is never read as anything but text: each template is a string of the notification or the data.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError
from pyroaring import BitMap

from gateway.content.device_values import Combination, read_combinations
from gateway.content.documents import NOTHING, Document, DocumentFault, MissingText, compile_document
from gateway.content.templates import TemplateStore
from gateway.delivery.attachments import Attachments
from gateway.delivery.notification import Notification
from gateway.delivery.push import PushRequest, check_kind
from gateway.delivery.push_template import TemplateFields, members_of, merged_fields, texts_of
from gateway.delivery.push_texts import PreparedText
from gateway.delivery.submission import AppRef, PendingPush, checked_content
from gateway.delivery_states import PRIORITIES
from gateway.errors import Problem, RetryableProblem, problem
from gateway.store.audience.device_sets import segments_of
from gateway.store.audience.devices import EXAMPLE_DEVICES, device_ids
from gateway.store.content.templates import SavedTemplate
from gateway.store.database import Database

SLICE_SECONDS = 0.001
"""Seconds of the loop that renderings take in a turn, all together; one template may take longer (`WORK_UNITS`)."""
RENDER_SECONDS = 2.0
"""Seconds of the loop that the texts of a push may take, as long as a read for an app."""
TEXTS_BYTES = 4 * 1024 * 1024
"""Bytes of a push's texts, together: 1,000 of 4 KiB, the default limit of a push."""
MAX_SETS = 4_000
"""Sets of devices that a push's texts are stored as, one for each text and 65,536 devices: about 50 ms of the writer.
To a million devices these are 250 texts."""
RENDERINGS_OF_APP = 8
"""Pushes of an app that are composed at a time; the others wait."""
WAITING_RENDERINGS = 1_000
"""Pushes that wait for that, of all apps; each holds its request."""
NAMED_VARIABLES = 20
"""Variables that an answer names when devices lack some."""
RETRY_SECONDS = 1.0


class LackingDevices(NamedTuple):
    """Devices that lack a variable which a text needs."""

    variable: str
    where: str
    """The first text that needs it."""
    devices: int
    examples: list[str]
    """Ids of some of them."""


@dataclass(slots=True)
class ComposedPush:
    """A push whose content is put together, and not yet rendered."""

    document: Document
    fields: dict[str, Any]
    """Its fields besides the content and the target; `kind` is filled in."""
    template: tuple[str, int] | None


@dataclass(slots=True)
class RenderedTexts:
    """The texts of a push, and who gets none."""

    texts: list[PreparedText] = field(default_factory=list)
    lacking: list[LackingDevices] = field(default_factory=list)
    without: BitMap = field(default_factory=BitMap)
    """The devices that lack something."""


class TextRenderer:
    """Composes pushes that have templates or texts by locale. Loop."""

    def __init__(
        self, *, database: Database, templates: TemplateStore, attachments: Attachments, max_payload: int
    ) -> None:
        """`max_payload`: bytes of a wire payload."""
        self._database = database
        self._templates = templates
        self._attachments = attachments
        self._max_payload = max_payload
        self._turn = asyncio.Lock()
        """Held by the rendering that has its slice."""
        self._of_app: defaultdict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(RENDERINGS_OF_APP))
        self._waiting = 0
        self.rendered = 0
        """Texts rendered, for metrics."""
        self.seconds = 0.0
        """Seconds of the loop spent on it, for metrics."""

    async def prepare(self, pending: PendingPush, devices: BitMap) -> None:
        """Give a pending push its fields and its texts for these devices. Raises Problem 404, 413, 422, 503."""
        request = pending.composed
        assert request is not None, "it is composed"
        async with self._place(pending.app.no):
            composed = await self.compose(pending.app, request)
            rendered = await self.render(pending.app, composed, devices)
        if rendered.lacking and composed.fields["on_missing"] == "refuse":
            raise lacking_problem(rendered.lacking)
        fields = composed.fields
        pending.kind, pending.priority = fields["kind"], PRIORITIES.index(fields["priority"])
        pending.qos, pending.ttl = fields["qos"], fields["ttl"]
        pending.channel, pending.collapse_key = fields["channel"], fields["collapse_key"]
        pending.texts, pending.template = rendered.texts, composed.template

    async def composed(self, app: AppRef, request: PushRequest) -> ComposedPush:
        """Compose a push in its turn, and keep nothing of it. Raises Problem 404, 422, 503."""
        async with self._place(app.no):
            return await self.compose(app, request)

    async def forecast(self, app: AppRef, request: PushRequest, devices: BitMap) -> tuple[ComposedPush, RenderedTexts]:
        """Compose and render a push for these devices, and keep nothing of it. Raises as `prepare`, but for what is
        missing."""
        async with self._place(app.no):
            composed = await self.compose(app, request)
            return composed, await self.render(app, composed, devices, keep=False)

    @asynccontextmanager
    async def _place(self, app_no: int) -> AsyncIterator[None]:
        """Wait until fewer pushes of the app are being composed."""
        if self._waiting >= WAITING_RENDERINGS:
            raise RetryableProblem("busy", f"{WAITING_RENDERINGS} pushes wait for their texts", RETRY_SECONDS)
        self._waiting += 1
        places = self._of_app[app_no]
        try:
            async with places:
                yield
        finally:
            self._waiting -= 1

    async def compose(self, app: AppRef, request: PushRequest) -> ComposedPush:
        """Put a push together of its template and its own fields. Raises Problem 404, 422."""
        saved, below = None, None
        if request.template is not None:
            saved = await self._templates.get(app.no, request.template.name, request.template.version)
            below = TemplateFields.model_validate_json(saved.content)
        try:
            own = await compile_document(
                notification=members_of(request.notification),
                texts=texts_of(request.texts),
                data=request.data if "data" in request.__pydantic_fields_set__ else NOTHING,
                values=request.template.values if request.template is not None else None,
                is_liquid=request.render is not None,
            )
            document = own if below is None else own.over(await below.document())
        except DocumentFault as fault:
            raise problem("template_error", str(fault)) from None
        return composed_push(document, merged_fields(request, below), saved)

    async def render(self, app: AppRef, composed: ComposedPush, devices: BitMap, *, keep: bool = True) -> RenderedTexts:
        """Render a composed push for these devices. `keep`: attachments live as long as the push.

        Raises Problem 413, 422, 503.
        """
        rendered = RenderedTexts()
        lacking: dict[str, tuple[str, BitMap]] = {}
        by_content: dict[str, PreparedText] = {}
        size = 0
        slices = _Slices(self)
        try:
            for combination in await read_combinations(self._database, app.no, devices, composed.document):
                notification, data, missing = await self._rendered(composed.document, combination, slices)
                if missing:
                    rendered.without |= combination.devices
                    for variable, where in missing:
                        lacking.setdefault(variable, (where, BitMap()))[1].update(combination.devices)
                    continue
                text = self._checked(app, composed, notification, data, combination.devices, keep=keep)
                known = by_content.get(text.content)
                if known is not None:
                    known.devices.update(text.devices)
                    continue
                by_content[text.content] = text
                size += len(text.content)
                if size > TEXTS_BYTES:
                    raise problem(
                        "too_many_texts",
                        f"its texts have more than {TEXTS_BYTES} bytes together: shorten them, or send to fewer "
                        "devices at a time",
                    )
        except DocumentFault as fault:
            slices.end()
            (example,) = await self._ids(app, combination.devices, 1)
            raise problem("template_error", f"{fault} (rendered for device {example!r})") from None
        except _TextRefused as refused:
            slices.end()
            (example,) = await self._ids(app, combination.devices, 1)
            raise problem(refused.code, f"as rendered for device {example!r}: {refused}") from None
        finally:
            slices.end()
        rendered.texts = list(by_content.values())
        segments = sum(1 for _ in segments_of(devices))
        if sum(min(len(text.devices), segments) for text in rendered.texts) > MAX_SETS:
            raise problem(
                "too_many_texts",
                f"{len(rendered.texts)} texts are too many for {len(devices)} devices: send to fewer at a time",
            )
        self.rendered += len(rendered.texts)
        for variable, (where, those) in list(lacking.items())[:NAMED_VARIABLES]:
            examples = await self._ids(app, those, EXAMPLE_DEVICES)
            rendered.lacking.append(LackingDevices(variable, where, len(those), examples))
        return rendered

    async def preview(
        self, app: AppRef, saved: SavedTemplate, device_no: int, values: dict[str, Any] | None, data: dict[str, Any]
    ) -> dict[str, Any]:
        """Render a saved template for one device, as the API shows it.

        With these values, and with `data` if that has the member. Raises Problem 413, 422, 503.
        """
        template = TemplateFields.model_validate_json(saved.content)
        async with self._place(app.no):
            try:
                own = await compile_document(data=data.get("data", NOTHING), values=values, is_liquid=False)
                document = own.over(await template.document())
            except DocumentFault as fault:
                raise problem("template_error", str(fault)) from None
            composed = composed_push(document, merged_fields(None, template), saved)
            return _described(composed, await self.render(app, composed, BitMap([device_no]), keep=False))

    async def preview_push(self, app: AppRef, request: PushRequest, device_no: int) -> dict[str, Any]:
        """Render a push that is being written for one device, as the API shows it. Raises Problem 404, 413, 422, 503.

        Whom it is for is not asked.
        """
        if request.signed is not None or request.encrypted is not None:
            raise problem("invalid_request", "push: what is signed or encrypted is sent as it is, and not rendered")
        return _described(*await self.forecast(app, request, BitMap([device_no])))

    async def _ids(self, app: AppRef, devices: BitMap, count: int) -> list[str]:
        return await self._database.read(lambda transaction: device_ids(transaction, devices, count), app.no)

    async def _rendered(
        self, document: Document, combination: Combination, slices: _Slices
    ) -> tuple[dict[str, Any] | None, Any, list[MissingText]]:
        steps = document.render(combination.texts, combination.device)
        while True:
            await slices.next()
            try:
                next(steps)
            except StopIteration as end:
                notification, data, missing = end.value
                if notification is None and document.texts:
                    missing.append(MissingText("device.locale", "texts"))
                return notification, data, missing

    def _checked(
        self,
        app: AppRef,
        composed: ComposedPush,
        notification: dict[str, Any] | None,
        data: Any,
        devices: BitMap,
        *,
        keep: bool,
    ) -> PreparedText:
        """A text of a push, checked as if it had been sent as it is."""
        fields = {name: value for name, value in composed.fields.items() if name != "on_missing"}
        try:
            if notification is not None:
                fields["notification"] = Notification.model_validate(notification)
            if data is not NOTHING:
                fields["data"] = data
            request = PushRequest.model_construct(_fields_set=set(fields), **fields)
            fetch_from = self._attachments.refer(app.no, request, keep=keep)
            content, size = checked_content(request, self._max_payload, fetch_from)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["notification", *map(str, first["loc"])])
            raise _TextRefused("template_error", f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        except Problem as refusal:
            raise _TextRefused(refusal.code, refusal.detail) from None
        return PreparedText(content, size, fetch_from is not None, BitMap(devices))


def composed_push(document: Document, fields: dict[str, Any], saved: SavedTemplate | None) -> ComposedPush:
    """A push of this content and these fields, once they fit together. Raises Problem 422."""
    if fields["kind"] is None:
        fields["kind"] = "alert" if document.shows_texts else "silent"
    actions = {action["id"] for action in (document.notification or {}).get("actions") or ()}
    try:
        check_kind(fields["kind"], document.shows_texts, fields["deadline"])
        for locale, text in document.texts.items():
            for action_id in text.get("actions") or ():
                if action_id not in actions:
                    raise ValueError(f"texts.{locale}: the notification has no action {action_id!r}")
    except ValueError as error:
        raise problem("invalid_request", str(error)) from None
    return ComposedPush(document, fields, None if saved is None else (saved.name, saved.version))


def _described(composed: ComposedPush, rendered: RenderedTexts) -> dict[str, Any]:
    """A push that was rendered for one device, as the API shows it."""
    fields = {name: value for name, value in composed.fields.items() if name != "on_missing" and value is not None}
    template = composed.template
    return {
        "template": None if template is None else {"name": template[0], "version": template[1]},
        "push": None if not rendered.texts else fields | json.loads(rendered.texts[0].content),
        "size": None if not rendered.texts else rendered.texts[0].size,
        "missing": [{"variable": one.variable, "where": one.where} for one in rendered.lacking],
    }


def lacking_problem(lacking: list[LackingDevices]) -> Problem:
    """The refusal of a push for which devices lack something."""
    named = "; ".join(
        f"{one.variable} for {one.devices} device{'s' if one.devices != 1 else ''}, such as {', '.join(one.examples)}"
        for one in lacking
    )
    first = lacking[0].variable
    if first.startswith("values."):
        remedy = (
            f"Send it in the \"values\" of the template, or give it a default, as in {{{{ {first} | default: '..' }}}}"
        )
    else:
        remedy = (
            f"Give it a default, as in {{{{ {first} | default: '..' }}}}, or leave those devices out with "
            '"on_missing": "leave_out"'
        )
    return problem("template_error", f"missing: {named}. {remedy}")


class _TextRefused(Exception):
    """A rendered text that is no push; the message says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Slices:
    """The slices of one rendering: it has the loop for SLICE_SECONDS, then others do."""

    def __init__(self, renderer: TextRenderer) -> None:
        self._renderer = renderer
        self._began = 0.0
        self._spent = 0.0
        self._is_held = False

    async def next(self) -> None:
        """Go on at once while the slice lasts; else in the next turn that is free. Raises Problem 422."""
        if self._is_held and time.perf_counter() - self._began < SLICE_SECONDS:
            return
        self._let_go()
        if self._spent > RENDER_SECONDS:
            raise problem(
                "too_many_texts", f"its texts take more than {RENDER_SECONDS:g} s to render: make them simpler"
            )
        await self._renderer._turn.acquire()
        self._is_held, self._began = True, time.perf_counter()
        await asyncio.sleep(0)  # with the turn held: whoever has it next begins in a later turn of the loop
        self._began = time.perf_counter()

    def end(self) -> None:
        """Give way to other renderings for good."""
        self._let_go()
        self._renderer.seconds += self._spent
        self._spent = 0.0

    def _let_go(self) -> None:
        if self._is_held:
            self._is_held = False
            self._spent += time.perf_counter() - self._began
            self._renderer._turn.release()
