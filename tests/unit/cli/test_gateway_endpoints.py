from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from lightship.cli.gateway_endpoints import (
    Endpoint,
    ListedModel,
    UnreachableEndpointError,
    endpoints_of_arguments,
    endpoints_of_spec,
    list_models,
    plan_replicas,
)
from lightship.errors import LightshipError, NetworkError, UsageError
from lightship.gateway.config import ReplicaConfig
from lightship.spec.load import parse_spec
from lightship.testing.asgi_server import serving_app

ONE, TWO = "http://127.0.0.1:8001", "http://127.0.0.1:8002"


def rows(replicas: list[ReplicaConfig]) -> list[tuple[str, int, str, str, str]]:
    return [(one.served_model, one.rung, one.variant_name, one.name, one.model_name) for one in replicas]


def test_plan_endpoints_of_one_model_share_its_load() -> None:
    endpoints = endpoints_of_arguments([f"{ONE}/v1", TWO], [])
    listings = {ONE: [ListedModel("m", 4096)], TWO: [ListedModel("m")]}
    replicas = plan_replicas(endpoints, listings)
    assert rows(replicas) == [("m", 0, "default", "127.0.0.1:8001", "m"), ("m", 0, "default", "127.0.0.1:8002", "m")]
    assert [one.context_length for one in replicas] == [4096, None]


def test_plan_every_model_of_an_endpoint_is_served_under_its_name() -> None:
    endpoints = endpoints_of_arguments([f"{ONE}#*"], [])
    replicas = plan_replicas(endpoints, {ONE: [ListedModel("a:1b"), ListedModel("b:2b")]})
    assert rows(replicas) == [
        ("a:1b", 0, "default", "127.0.0.1:8001/a:1b", "a:1b"),
        ("b:2b", 0, "default", "127.0.0.1:8001/b:2b", "b:2b"),
    ]


def test_plan_rungs_are_one_ladder_in_the_order_given() -> None:
    endpoints = endpoints_of_arguments([], [f"bf16={ONE}#big", f"int4={TWO}#small", f"bf16={TWO}#big"])
    replicas = plan_replicas(endpoints, {}, is_one_ladder=True)
    assert rows(replicas) == [
        ("big", 0, "bf16", "bf16", "big"),
        ("big", 1, "int4", "int4", "small"),
        ("big", 0, "bf16", "bf16-2", "big"),
    ]


def test_plan_name_is_what_clients_send() -> None:
    ladder = endpoints_of_arguments([], [f"bf16={ONE}#big", f"int4={TWO}#small"], name="chat")
    shared = endpoints_of_arguments([f"{ONE}#a", f"{TWO}#b"], [], name="chat")
    for endpoints in (ladder, shared):
        assert {one.served_model for one in plan_replicas(endpoints, {}, is_one_ladder=True)} == {"chat"}


def test_plan_upstreams_of_a_spec_have_their_keys_and_rungs() -> None:
    spec = parse_spec(
        f"upstreams:\n"
        f"- {{name: own, base_url: '{ONE}', model: org/m, serves: chat}}\n"
        f"- {{name: cloud, base_url: '{TWO}/v1', model: m, serves: chat, rung: 1, api_key_env: CLOUD_KEY}}\n"
    ).spec
    replicas = plan_replicas(endpoints_of_spec(spec.upstreams), {})
    assert rows(replicas) == [("chat", 0, "own", "own", "org/m"), ("chat", 1, "cloud", "cloud", "m")]
    assert [one.api_key_env for one in replicas] == ["", "CLOUD_KEY"]


@pytest.mark.parametrize(
    ("endpoints", "listed", "told"),
    [
        ([], [], "there is no endpoint to serve"),
        ([Endpoint("e", ONE)], [], "the endpoint lists no model"),
        (
            [Endpoint("e", ONE)],
            ["a", "b"],
            f"lists 2 models: a, b. Name one, like {ONE}#a, or all of them with {ONE}#*",
        ),
        ([Endpoint("e", ONE, "*", serves="chat")], ["a", "b"], "2 models cannot all be called chat"),
        ([Endpoint("e", ONE, "a"), Endpoint("f", TWO, "b", rung=1)], [], "model b: the ladder has the rungs [1]"),
    ],
)
def test_plan_that_cannot_be_made_says_what_to_do(endpoints: list[Endpoint], listed: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_replicas(endpoints, {ONE: [ListedModel(name) for name in listed]})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("urls", "rungs", "told"),
    [
        (["127.0.0.1:8000"], [], "127.0.0.1:8000: not the address of an endpoint"),
        (["http://h:port"], [], "http://h:port: not an address"),
        ([f"{ONE}#"], [], "there is no model after the #"),
        (["http://user:secret@h:1"], [], "h: the address holds a password"),
        ([ONE], [f"a={ONE}"], "endpoints and --rung cannot be mixed"),
        ([], [ONE], f"--rung {ONE}: not a rung"),
        ([], [f"a b={ONE}"], "not a rung"),
        ([], [f"a={ONE}#*"], "a rung is one model"),
    ],
)
def test_arguments_that_name_no_endpoint_are_refused(urls: list[str], rungs: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoints_of_arguments(urls, rungs)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


@asynccontextmanager
async def endpoint(status: int, body: bytes, seen: list[bytes]) -> AsyncIterator[str]:
    """One that answers everything so, and keeps the keys it is sent."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        assert scope["path"] == "/v1/models"
        seen.append(dict(scope["headers"]).get(b"authorization", b""))
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with serving_app(app) as url:
        yield url


def listed(status: int, body: bytes, *, seen: list[bytes] | None = None) -> list[ListedModel]:
    async def run() -> list[ListedModel] | NetworkError:
        async with endpoint(status, body, [] if seen is None else seen) as url:
            try:
                return (await list_models([Endpoint("e", url, api_key_env="KEY")], {"KEY": "k"}))[url]
            except NetworkError as error:
                return error

    found = asyncio.run(run())
    if isinstance(found, NetworkError):
        raise found
    return found


def test_list_models_sends_the_key_and_reads_the_names() -> None:
    seen: list[bytes] = []
    body = b'{"object":"list","data":[{"id":"a","max_model_len":8192,"object":"model"},{"id":"b","owned_by":"x"}]}'
    assert listed(200, body, seen=seen) == [ListedModel("a", 8192), ListedModel("b")]
    assert seen == [b"Bearer k"]


def test_list_models_of_a_gateway_of_ours_does_not_count_rungs_as_models() -> None:
    assert listed(200, b'{"data":[{"id":"m"},{"id":"m@int8"},{"id":"n@x"}]}') == [ListedModel("m"), ListedModel("n@x")]


def test_list_models_of_an_empty_ollama_is_empty() -> None:
    assert listed(200, b'{"object":"list","data":null}') == []


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"{}", "asks for an API key (it answered 401)"),
        (404, b"nothing", "answered 404 instead of its models"),
        (307, b"", "answered 307 instead of its models"),
        (200, b"<html>", "that is no list of models"),
        (200, b"[]", "that is no list of models"),
    ],
)
def test_list_models_of_something_else_says_what_it_is(status: int, body: bytes, told: str) -> None:
    with pytest.raises(NetworkError) as caught:
        listed(status, body)
    assert told in str(caught.value)
    assert not isinstance(caught.value, UnreachableEndpointError)


def test_list_models_where_nobody_listens_is_unreachable() -> None:
    with pytest.raises(UnreachableEndpointError, match=r"cannot be reached: Connection refused") as caught:
        asyncio.run(list_models([Endpoint("e", "http://127.0.0.1:9")], {}))
    assert isinstance(caught.value, LightshipError)
    assert "#MODEL" in str(caught.value)
