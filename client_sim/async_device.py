"""The reference device for programs on asyncio: `AsyncDevice`. It is `Device` with its journal and its laws.

    device = AsyncDevice("kiosk-1", token, host="push.example", journal=Path("kiosk-1.db"), on_push=show)

    @device.action("play")
    async def play(push): ...

    async with device:
        await device.wait_connected(10)

Handlers may be coroutine functions or plain ones. They run in the loop that `start` was called in, one push at a time;
the push is acknowledged when its handler has returned. One that is cancelled (the program ends) leaves its push begun
and not finished: it is told to `on_interrupted` at the next start.

What a device says is a commit to disk, which does not belong in a loop: a thread does it, in order.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from client_sim.device import Device, Notice
from client_sim.enrolment import enrol
from client_sim.options import DeviceOptions, EnrolOptions
from client_sim.push import Handler, Push, failure, outcome

T = TypeVar("T")
H = TypeVar("H", bound=Handler)

_handling: ContextVar[object] = ContextVar("_handling", default=None)
"""The device whose handler this task is."""


class AsyncDevice:
    """The reference device on asyncio. Make it anywhere, `start` and use it in one loop; `close` it, also from a
    handler."""

    def __init__(
        self,
        device_id: str,
        token: str,
        *,
        on_push: Handler | None = None,
        on_interrupted: Handler | None = None,
        on_state: Callable[[str, str], Any] | None = None,
        on_notice: Callable[[dict[str, Any]], Any] | None = None,
        **options: Unpack[DeviceOptions],
    ) -> None:
        """The arguments are those of `Device`; `on_state` is a plain function, called in the loop."""
        self._on_state = on_state
        self._device = _LoopDevice(
            device_id,
            token,
            on_push=on_push,
            on_interrupted=on_interrupted,
            on_state=self._state,
            on_notice=on_notice,
            **options,
        )
        self._device.owner = self
        self._writer = ThreadPoolExecutor(1, f"{device_id} says")
        self._connected: asyncio.Event | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def enrol(cls, code: str | None, credential: Path, **options: Unpack[EnrolOptions]) -> Self:
        """Make the device whose credential is in a file, or trade a code for it, as `Device.enrol` does."""
        arguments: dict[str, Any] = {**options}
        label = {name: arguments.pop(name, None) for name in ("server", "ca", "about")}
        found = await asyncio.to_thread(partial(enrol, code, credential, **label))
        device = cls(found.device_id, found.token, **{**found.device_options(), **arguments})
        device._device.keep_renewed(found, credential)
        return device

    @property
    def device_id(self) -> str:
        """The device's id, as enrolled."""
        return self._device.device_id

    @property
    def actions(self) -> dict[str, Handler]:
        """Action id -> what is done when a person chooses it."""
        return self._device.actions

    @property
    def commands(self) -> dict[str, Handler]:
        """Command -> what is done on that order."""
        return self._device.commands

    def action(self, name: str) -> Callable[[H], H]:
        """Decorates the handler of an action."""
        return self._device.action(name)

    def command(self, name: str) -> Callable[[H], H]:
        """Decorates the handler of a command."""
        return self._device.command(name)

    # Life

    def start(self) -> Self:
        """Start both threads and run handlers in the running loop."""
        self._device.loop = asyncio.get_running_loop()
        self._connected = asyncio.Event()
        self._device.start()
        return self

    async def close(self, timeout: float = 10.0) -> None:
        """Finish the current push, send what is queued if connected, and disconnect. From a handler it returns at once,
        and the rest follows when the handler has."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(timeout))
        if _handling.get() is not self:
            await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> None:
        await asyncio.to_thread(self._device.close, timeout)
        self._writer.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Connected and subscribed."""
        return self._device.connected

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Raises TimeoutError."""
        assert self._connected is not None, "start it first"
        async with asyncio.timeout(timeout):
            await self._connected.wait()

    def _state(self, state: str, detail: str) -> None:
        try:
            self._device.loop.call_soon_threadsafe(self._state_changed, state, detail)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to hear

    def _state_changed(self, state: str, detail: str) -> None:
        assert self._connected is not None, "started"
        if state == "connected":
            self._connected.set()
        else:
            self._connected.clear()
        if self._on_state is not None:
            self._on_state(state, detail)

    # What a device says. All of it is kept when the call returns, and sent when there is a connection.

    async def displayed(self, push: Push) -> None:
        """Send the receipt `displayed`."""
        await self._in_order(self._device.displayed, push)

    async def opened(self, push: Push) -> None:
        """Send the receipt `opened`."""
        await self._in_order(self._device.opened, push)

    async def dismissed(self, push: Push, reason: str | None = None) -> None:
        """Send the receipt `dismissed`, as `Device.dismissed`."""
        await self._in_order(self._device.dismissed, push, reason)

    async def act(self, push: Push, action: str, text: str | None = None) -> Any:
        """Run the handler of an action in this task, and book the push as acted with what it returned.
        A command that the action names has a handler too. `text`: what the person typed, as for `Device.act`."""
        handler = self._device.handler_of(push, action)
        told = push if text is None else replace(push, input=text)
        if handler is None:
            result = await self._in_order(self._device.answer, told, action)
        else:
            try:
                result = await returned(handler, told)
            except Exception as error:
                result = failure(push, error)
        await self.acted(push, action, result)
        return result

    async def acted(self, push: Push, action: str | None = None, result: Any = None) -> None:
        """Book an action that the program has executed by itself."""
        await self._in_order(self._device.acted, push, action, result)

    async def fetch(self, push: Push, url: str) -> bytes:
        """Fetch a picture or file of a push by its address. It waits for a moment of its own within `push.fetch_within`
        seconds. Raises FetchFailed."""
        return await asyncio.to_thread(self._device.fetch, push, url)

    @property
    def consent(self) -> str:
        """The person's last answer as given to `set_consent`; `unknown` before."""
        return self._device.consent

    async def set_consent(self, consent: str, text_version: str | None = None) -> None:
        """The person's answer, `granted` or `denied`, and the version of the text that asked. Raises ValueError."""
        await self._in_order(self._device.set_consent, consent, text_version)

    @property
    def channels(self) -> dict[str, bool]:
        """The channel choices as given to `set_channels`: False for a muted one."""
        return self._device.channels

    async def set_channels(self, channels: dict[str, bool]) -> None:
        """Mute channels (False) or take them up again (True); those not named stay as they are. Raises ValueError."""
        await self._in_order(self._device.set_channels, channels)

    @property
    def topics(self) -> dict[str, bool]:
        """The topics as given to `set_topics`: True for one that was joined here."""
        return self._device.topics

    async def set_topics(self, topics: dict[str, bool]) -> None:
        """Join topics (True) or leave them (False). Raises ValueError."""
        await self._in_order(self._device.set_topics, topics)

    @property
    def quiet_hours(self) -> tuple[str, str] | None:
        """The quiet hours as given to `set_quiet_hours`."""
        return self._device.quiet_hours

    async def set_quiet_hours(self, start: str | None, end: str | None = None) -> None:
        """Suppress alerts between two times of the device's own clock; None: at no time. Raises ValueError."""
        await self._in_order(self._device.set_quiet_hours, start, end)

    async def report(self, attributes: dict[str, Any]) -> None:
        """Facts about the device, merged into its attributes on the server (RFC 7396). Raises ValueError, TypeError."""
        await self._in_order(self._device.report, attributes)

    async def uplink(self, below: str, payload: str | bytes) -> None:
        """Send a message of the program under the device's own `uplink/` topic. Raises ValueError."""
        await self._in_order(self._device.uplink, below, payload)

    async def flush(self, timeout: float) -> bool:
        """Wait (seconds) until the server has acknowledged everything said; False if it did not in time."""
        return await asyncio.to_thread(self._device.flush, timeout)

    async def _in_order(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, partial(call, *arguments))


class _LoopDevice(Device):
    """Runs handlers in the loop; its worker waits there for what they return."""

    loop: asyncio.AbstractEventLoop
    owner: AsyncDevice

    def _run(self, handler: Handler, push: Push) -> Any:
        return outcome(partial(self._in_loop, handler), push)

    def _run_notice(self, handler: Callable[[Notice], Any], notice: Notice) -> None:
        self._in_loop(handler, notice)

    def _in_loop(self, handler: Callable[[Any], Any], argument: Any) -> Any:
        call = self._call(handler, argument)
        try:
            future = asyncio.run_coroutine_threadsafe(call, self.loop)
        except RuntimeError as error:  # the loop is closed
            call.close()
            raise concurrent.futures.CancelledError from error
        return future.result()

    async def _call(self, handler: Callable[[Any], Any], argument: Any) -> Any:
        _handling.set(self.owner)
        return await returned(handler, argument)


async def returned(handler: Callable[[Any], Any], argument: Any) -> Any:
    """The result of a handler, which may be a plain function or a coroutine function."""
    result = handler(argument)
    return await result if inspect.isawaitable(result) else result
