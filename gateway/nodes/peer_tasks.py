"""Tasks for peers: one for each at a time, which tells it what waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.nodes.membership import Node


class PeerTasks(dict[Node, asyncio.Task[None]]):
    """The tasks that are under way, by peer. Runs on the *loop*."""

    def begin(self, node: Node, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin the work for a peer that has none under way; the next may begin as soon as this has ended."""
        self[node] = asyncio.get_running_loop().create_task(self._run(node, work))

    def ended(self, node: Node) -> None:
        """Cancel the work for a node that has ended."""
        task = self.pop(node, None)
        if task is not None:
            task.cancel()

    async def end(self) -> None:
        """Cancel all work, and wait until it has ended."""
        tasks = list(self.values())
        for node in list(self):
            self.ended(node)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, node: Node, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        finally:
            if self.get(node) is asyncio.current_task():
                del self[node]
