from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.identity import EndpointIdentity, identify

if TYPE_CHECKING:
    from tests.unit.evaluation.tasks.conftest import TaskServer


def identity(server: TaskServer) -> EndpointIdentity:
    async def main() -> EndpointIdentity:
        async with server.endpoint() as endpoint:
            return await identify(endpoint)

    return asyncio.run(main())


def test_identify_gives_digest_name_and_hash_of_the_token_ids(task_server: type[TaskServer]) -> None:
    server = task_server()
    found = identity(server)
    text = next(body["prompt"] for _, body in server.requests if body.get("echo"))
    ids = ",".join(str(server._ids[token]) for token in server.tokens(text))
    assert found == EndpointIdentity("sha256:one", "m", hashlib.sha256(ids.encode()).hexdigest())


def test_identify_endpoint_that_shows_no_ids_has_no_tokenizer_hash(task_server: type[TaskServer]) -> None:
    server = task_server(has_tokenize=False, served=lambda number: "", system_fingerprint="fp")
    server._scored = lambda prompt: {"choices": [{"text": prompt}]}  # type: ignore[method-assign]
    assert identity(server) == EndpointIdentity("fp", "m", "")


def test_identify_generation_only_endpoint_may_show_ids_at_tokenize(task_server: type[TaskServer]) -> None:
    whole = task_server()
    server = task_server()
    server._scored = lambda prompt: {"choices": [{"text": prompt}]}  # type: ignore[method-assign]
    assert identity(server).tokenizer_hash == identity(whole).tokenizer_hash


def test_identify_other_tokenizer_has_another_hash(task_server: type[TaskServer]) -> None:
    assert identity(task_server(has_bos=False)).tokenizer_hash != identity(task_server()).tokenizer_hash


def test_identify_endpoint_for_chats_alone_is_asked_by_chat(task_server: type[TaskServer]) -> None:
    server = task_server(has_tokenize=False)

    async def not_there(request: Any) -> Any:
        raise web.HTTPNotFound

    server._complete = not_there  # type: ignore[method-assign]
    assert identity(server) == EndpointIdentity("sha256:one", "m", "")


def test_identify_endpoint_that_refuses_says_why(task_server: type[TaskServer]) -> None:
    with pytest.raises(MeasurementError, match="answered 500: out of memory"):
        identity(task_server(fails_from=1))
