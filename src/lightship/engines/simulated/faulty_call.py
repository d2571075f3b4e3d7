"""A call that breaks as a fault rule says, at the place in the answer where it says."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from lightship.engines.openvino.call import Call
from lightship.engines.simulated.faults import FaultKind, FaultRule, injected_error, status_error
from lightship.ports.clock import Clock
from lightship.serving.responses import raw_headers

# Pieces in which a whole answer trickles.
_NUM_TRICKLE_PIECES = 8


class InjectedBreakError(Exception):
    """The connection was broken on purpose; there is nobody left to answer."""


class FaultyCall(Call):
    """A call under one rule. Its answer is a normal one up to the place where it breaks."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        variant_digest: str,
        arrived_s: float,
        rule: FaultRule,
        clock: Clock,
    ) -> None:
        super().__init__(scope, receive, send, variant_digest=variant_digest, arrived_s=arrived_s)
        self._rule = rule
        self._clock = clock
        self._raw_send = send
        self._num_sent = 0

    async def before_work(self) -> None:
        """What the rule does before the request is worked on.

        Raises: ApiError: the fault is an error answer. InjectedBreakError: the connection is gone.
        """
        match self._rule.kind:
            case FaultKind.STATUS:
                raise status_error(self._rule)
            case FaultKind.SLOW_FIRST_BYTE:
                await self._clock.sleep(self._rule.delay_s or 0.0)
            case FaultKind.HANG | FaultKind.RESET if self._rule.num_events_before == 0:
                await self._break()
            case _:
                pass

    async def send_chunk(self, chunk: bytes) -> None:
        """Sends a part of a stream, or breaks."""
        await self._before_chunk()
        await super().send_chunk(chunk)
        self._num_sent += 1

    async def end_stream(self) -> None:
        """Ends a stream that was shorter than the rule's place: it breaks here at the latest."""
        if self._is_breaking:
            await self._break()
        await super().end_stream()

    async def send_whole(self, body: bytes, *, content_type: str, status: int = 200) -> None:
        """Sends half of a whole answer, or all of it in pieces."""
        if self._rule.kind is FaultKind.ERROR_EVENT:
            raise injected_error()
        if not (self._is_breaking or self._rule.kind is FaultKind.TRICKLE):
            await super().send_whole(body, content_type=content_type, status=status)
            return
        self.is_started = True
        headers = {"content-type": content_type, "content-length": str(len(body)), **self._headers}
        await self._raw_send({"type": "http.response.start", "status": status, "headers": raw_headers(headers)})
        if self._is_breaking:
            await self._raw_send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await self._break()
        step = -(-len(body) // _NUM_TRICKLE_PIECES)
        for start in range(0, len(body), step):
            await self._clock.sleep(self._rule.delay_s or 0.0)
            piece = body[start : start + step]
            is_last = start + step >= len(body)
            await self._raw_send({"type": "http.response.body", "body": piece, "more_body": not is_last})

    @property
    def _is_breaking(self) -> bool:
        return self._rule.kind in (FaultKind.HANG, FaultKind.TRUNCATE, FaultKind.RESET, FaultKind.ERROR_EVENT)

    async def _before_chunk(self) -> None:
        if self._rule.kind is FaultKind.TRICKLE:
            await self._clock.sleep(self._rule.delay_s or 0.0)
        elif self._is_breaking and self._num_sent >= self._rule.num_events_before:
            await self._break()

    async def _break(self) -> None:
        match self._rule.kind:
            case FaultKind.HANG:
                await asyncio.Event().wait()
            case FaultKind.ERROR_EVENT:
                raise injected_error()
            case kind:
                break_connection(self._raw_send, is_reset=kind is FaultKind.RESET)
        raise InjectedBreakError


def break_connection(send: Send, *, is_reset: bool) -> None:
    """Closes the client's connection at once, in the middle of whatever was sent.

    ASGI has no message for that, so this reaches for the server's transport behind `send`; a test holds that it is
    there.

    Raises: ClientDisconnect: there is no connection to break.
    """
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ClientDisconnect
    if is_reset:
        # closing a socket that lingers for no time sends RST in place of FIN; a copy, because uvloop gives out none
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
