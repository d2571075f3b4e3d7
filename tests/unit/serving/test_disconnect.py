from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.unit.serving.test_http_protocol import POST, Client, run

from lightship.serving.disconnect import CancelledWhenGone, ClientGoneError
from lightship.testing.virtual_time import run_in_virtual_time


class App:
    """Works for ever for its client, or for some seconds, and notes how that ended."""

    def __init__(self, work_s: float | None = None) -> None:
        self.work_s = work_s
        self.notes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with CancelledWhenGone(scope, receive):
                await (asyncio.Event().wait() if self.work_s is None else asyncio.sleep(self.work_s))
                self.notes.append("worked")
        except ClientGoneError:
            self.notes.append("gone")
            await asyncio.sleep(0)  # the cancellation is over
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


def test_client_that_leaves_cancels_the_work_on_our_server_without_a_task() -> None:
    app = App()

    async def scenario(client: Client) -> None:
        await client.send(POST)
        assert len(asyncio.all_tasks()) == 2  # this one and the app's
        client.transport.close()
        await client.answer()
        assert app.notes == ["gone"]

    run(app, scenario)


def test_client_that_stays_gets_its_answer_and_may_leave_afterwards() -> None:
    app = App(work_s=1)

    async def scenario(client: Client) -> None:
        await client.send(POST)
        await asyncio.sleep(2)
        assert b"200 OK" in await client.answer()
        client.transport.close()
        await client.answer()
        assert app.notes == ["worked"]

    run(app, scenario)


def test_client_that_left_before_the_work_begins_is_noticed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del send
        await receive()
        await asyncio.sleep(1)
        with pytest.raises(ClientGoneError):
            async with CancelledWhenGone(scope, receive):
                pytest.fail("nobody is there")

    async def scenario(client: Client) -> None:
        await client.send(POST)
        client.transport.close()
        await asyncio.sleep(2)

    run(app, scenario)


@pytest.mark.parametrize("leaves_after_s", [1.0, None])
def test_client_of_any_other_server_is_watched_by_a_task_that_ends(leaves_after_s: float | None) -> None:
    async def receive() -> Message:
        await (asyncio.Event().wait() if leaves_after_s is None else asyncio.sleep(leaves_after_s))
        return {"type": "http.disconnect"}

    async def main() -> str:
        try:
            async with CancelledWhenGone({"type": "http"}, receive):
                await asyncio.sleep(5)
        except ClientGoneError:
            return "gone"
        finally:
            assert len(asyncio.all_tasks()) == 1
        return "worked"

    assert run_in_virtual_time(main()) == ("gone" if leaves_after_s else "worked")


def test_cancellation_from_elsewhere_stays_a_cancellation() -> None:
    async def forever() -> None:
        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async with CancelledWhenGone({"type": "http"}, receive):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_in_virtual_time(main())
