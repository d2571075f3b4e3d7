"""Which endpoints a gateway alone stands in front of: from the command line or the spec to replicas with rungs.

Pure, but for `list_models`, which asks the endpoints what they serve.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp
import msgspec

from lightship.engines.remote import root_url
from lightship.errors import NetworkError, UsageError
from lightship.gateway.config import ReplicaConfig
from lightship.spec.placement import UpstreamSpec

# The name of a rung that has none: that of the only one, which no ladder was asked for.
ONLY_RUNG = "default"
EVERY_MODEL = "*"
_ASK_TIMEOUT_S = 5.0
_LIST_BYTES = 8 * 2**20
_SHOWN_MODELS = 20
_RUNG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class UnreachableEndpointError(NetworkError):
    """Nobody answers at the endpoint's address."""


@dataclass(frozen=True)
class Endpoint:
    """One OpenAI-compatible endpoint as the user named it.

    `model` is what it calls its model: None is the only one it lists, `*` each one. `serves` is the name clients send;
    "" is what the endpoint calls it. `rung` is its place on the ladder of that name, `variant` the name of that rung.
    """

    name: str
    base_url: str
    model: str | None = None
    serves: str = ""
    rung: int = 0
    variant: str = ""
    api_key_env: str = ""

    @property
    def needs_listing(self) -> bool:
        """Whether it must be asked before it is known what it serves."""
        return self.model is None or self.model == EVERY_MODEL


@dataclass(frozen=True)
class ListedModel:
    """One entry of an endpoint's `/v1/models`."""

    id: str
    context_length: int | None = None


Listings = Mapping[str, Sequence[ListedModel]]


def endpoints_of_arguments(
    urls: Sequence[str], rungs: Sequence[str], *, name: str = "", api_key_env: str = ""
) -> list[Endpoint]:
    """The endpoints that a command line names, in its order.

    Args:
        urls: Each `URL` or `URL#model`; those that serve one model share its load.
        rungs: Each `NAME=URL` or `NAME=URL#model`, best quality first; a repeated name is another replica of that rung.
        name: What clients send; by default what the endpoint calls its model, for `rungs` what the first one does.
        api_key_env: Environment variable with the key of them all.

    Raises: UsageError: not of that form, or both kinds at once.
    """
    if urls and rungs:
        hint = "Give every rung of the ladder as --rung NAME=URL, or every replica as a bare URL."
        raise UsageError("endpoints and --rung cannot be mixed", where=urls[0], hint=hint)
    if rungs:
        return _ladder(rungs, name=name, api_key_env=api_key_env)
    found: list[Endpoint] = []
    for text in urls:
        base_url, model = _address(text)
        label = _free_name(_label(base_url), found)
        found.append(Endpoint(label, base_url, model, serves=name, api_key_env=api_key_env))
    return found


def _ladder(rungs: Sequence[str], *, name: str, api_key_env: str) -> list[Endpoint]:
    places: dict[str, int] = {}
    found: list[Endpoint] = []
    for text in rungs:
        variant, equals, address = text.partition("=")
        if not equals or not _RUNG_NAME.fullmatch(variant):
            hint = "Write --rung NAME=URL or NAME=URL#model, for example --rung fp8=http://127.0.0.1:8000."
            raise UsageError("not a rung", where=f"--rung {text}", hint=hint)
        base_url, model = _address(address)
        if model == EVERY_MODEL:
            raise UsageError("a rung is one model", where=f"--rung {text}", hint="Name it after the #.")
        rung = places.setdefault(variant, len(places))
        found.append(Endpoint(_free_name(variant, found), base_url, model, name, rung, variant, api_key_env))
    return found


def _free_name(wanted: str, taken: Sequence[Endpoint]) -> str:
    """The name, with a number where others have it already."""
    names = {one.name for one in taken}
    return next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, len(taken) + 2))) if name not in names)


def endpoints_of_spec(upstreams: Iterable[UpstreamSpec]) -> list[Endpoint]:
    """The endpoints that a spec names, in its order.

    Raises: UsageError: an address that is none.
    """
    found = []
    for upstream in upstreams:
        base_url, model = _address(upstream.base_url)
        if model is not None:
            hint = "Put what stands after the # into the key `model`."
            raise UsageError("the address has a #", where=f"upstreams: {upstream.name}", hint=hint)
        found.append(
            Endpoint(
                name=upstream.name,
                base_url=base_url,
                model=upstream.model,
                serves=upstream.serves or "",
                rung=upstream.rung,
                variant=upstream.name,
                api_key_env=upstream.api_key_env or "",
            )
        )
    return found


def _address(text: str) -> tuple[str, str | None]:
    """Base URL and model of `URL#model`."""
    url, has_model, model = text.partition("#")
    hint = "Write an endpoint as http://HOST:PORT or http://HOST:PORT#model."
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a port number
    except ValueError as error:
        raise UsageError(f"not an address: {error}", where=text, hint=hint) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
        raise UsageError("not the address of an endpoint", where=text, hint=hint)
    if parts.username is not None or parts.password is not None:
        hint = "Put the key into an environment variable, and name that with --api-key-env or api_key_env."
        raise UsageError("the address holds a password", where=parts.hostname, hint=hint)
    if has_model and not model:
        raise UsageError("there is no model after the #", where=text, hint=hint)
    return root_url(url), model if has_model else None


def _label(base_url: str) -> str:
    parts = urlsplit(base_url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def plan_replicas(
    endpoints: Sequence[Endpoint], listings: Listings, *, is_one_ladder: bool = False
) -> list[ReplicaConfig]:
    """One replica for each model of each endpoint, with its place on the ladder of the name it serves.

    Args:
        endpoints: As named.
        listings: By base URL what each lists; those that named their model need no entry.
        is_one_ladder: Whether all are rungs of one model, whatever each calls it.

    Raises: UsageError: an endpoint lists no model, or several and none was named; a ladder with a gap.
    """
    if not endpoints:
        hint = "Run `lightship gateway http://127.0.0.1:8000`, or list upstreams in the spec."
        raise UsageError("there is no endpoint to serve", hint=hint)
    resolved = [one for endpoint in endpoints for one in _resolved(endpoint, listings.get(endpoint.base_url, ()))]
    if is_one_ladder:
        resolved = [replace(one, serves=resolved[0].serves) for one in resolved]
    contexts = {(url, listed.id): listed.context_length for url, models in listings.items() for listed in models}
    ladders: dict[str, list[Endpoint]] = {}
    for one in resolved:
        ladders.setdefault(one.serves, []).append(one)
    for model, ladder in ladders.items():
        _check_ladder(model, ladder)
    return [
        ReplicaConfig(
            name=one.name,
            base_url=one.base_url,
            model_name=str(one.model),
            served_model=one.serves,
            rung=one.rung,
            variant_name=_variant_name(one, ladders[one.serves]),
            context_length=contexts.get((one.base_url, str(one.model))),
            api_key_env=one.api_key_env,
        )
        for one in resolved
    ]


def _check_ladder(model: str, ladder: Sequence[Endpoint]) -> None:
    rungs = sorted({one.rung for one in ladder})
    if rungs != list(range(len(rungs))):
        hint = "Number the rungs of a ladder 0, 1, 2, ..., and let all of them say the same in `serves`."
        raise UsageError(f"the ladder has the rungs {rungs}", where=f"model {model}", hint=hint)


def _resolved(endpoint: Endpoint, listed: Sequence[ListedModel]) -> list[Endpoint]:
    """The endpoint once for each model it is to serve, each with the name clients send."""
    models = [one.id for one in listed]
    if endpoint.model is None:
        if len(models) != 1:
            raise _not_one_model(endpoint, models)
        endpoint = replace(endpoint, model=models[0])
    elif endpoint.model == EVERY_MODEL:
        if not models:
            raise _not_one_model(endpoint, models)
        if endpoint.serves and len(models) > 1:
            hint = "Leave the name out, or name one model."
            what = f"{len(models)} models cannot all be called {endpoint.serves}"
            raise UsageError(what, where=endpoint.name, hint=hint)
        names = {model: endpoint.name if len(models) == 1 else f"{endpoint.name}/{model}" for model in models}
        return [replace(endpoint, name=names[model], model=model, serves=endpoint.serves or model) for model in models]
    return [replace(endpoint, serves=endpoint.serves or str(endpoint.model))]


def _not_one_model(endpoint: Endpoint, models: Sequence[str]) -> UsageError:
    where = endpoint.base_url
    if not models:
        return UsageError("the endpoint lists no model", where=where, hint="Load one there, or name it: URL#model.")
    shown = ", ".join(models[:_SHOWN_MODELS]) + (", ..." if len(models) > _SHOWN_MODELS else "")
    hint = f"Name one, like {where}#{models[0]}, or all of them with {where}#{EVERY_MODEL}."
    return UsageError(f"the endpoint lists {len(models)} models: {shown}", where=where, hint=hint)


def _variant_name(endpoint: Endpoint, ladder: Sequence[Endpoint]) -> str:
    """The name of the endpoint's rung: that of the first endpoint on it, and no address where nobody made a ladder."""
    if len({one.rung for one in ladder}) == 1 and not any(one.variant for one in ladder):
        return ONLY_RUNG
    return next(one.variant for one in ladder if one.rung == endpoint.rung) or ONLY_RUNG


async def list_models(endpoints: Iterable[Endpoint], environment: Mapping[str, str]) -> dict[str, list[ListedModel]]:
    """By base URL what these endpoints list; all are asked at once.

    Args:
        endpoints: Whom to ask.
        environment: Where their keys are.

    Raises: NetworkError: one cannot be reached, or does not answer as it should.
    """
    asked = {endpoint.base_url: endpoint for endpoint in endpoints}
    timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        listed = await asyncio.gather(*(_list_models(one, session, environment) for one in asked.values()))
    return dict(zip(asked, listed, strict=True))


async def _list_models(
    endpoint: Endpoint, session: aiohttp.ClientSession, environment: Mapping[str, str]
) -> list[ListedModel]:
    key = environment.get(endpoint.api_key_env, "").strip() if endpoint.api_key_env else ""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"{endpoint.base_url}/v1/models"
    hint = f"Start it, or name its model to begin without it: {endpoint.base_url}#MODEL."
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            body = await response.content.read(_LIST_BYTES)
            status = response.status
    except TimeoutError as error:
        what = f"the endpoint did not answer within {_ASK_TIMEOUT_S:g} s"
        raise UnreachableEndpointError(what, where=url, hint=hint) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else _said(error)
        raise UnreachableEndpointError(f"the endpoint cannot be reached: {said}", where=url, hint=hint) from error
    return _read_listing(endpoint, url, status, body)


class _ModelEntry(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _ModelList(msgspec.Struct):
    data: list[_ModelEntry] | None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _read_listing(endpoint: Endpoint, url: str, status: int, body: bytes) -> list[ListedModel]:
    naming = f"Name its model to do without the list: {endpoint.base_url}#MODEL."
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        key = endpoint.api_key_env
        hint = (
            f"Is {key} its key?" if key else "Name the environment variable with its key: --api-key-env or api_key_env."
        )
        raise NetworkError(f"the endpoint asks for an API key (it answered {status})", where=url, hint=hint)
    if status != HTTPStatus.OK:
        raise NetworkError(f"the endpoint answered {status} instead of its models", where=url, hint=naming)
    try:
        entries = msgspec.json.decode(body, type=_ModelList).data or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NetworkError(f"that is no list of models: {error}", where=url, hint=naming) from error
    ids = {entry.id for entry in entries}
    # Our own engines and gateways list `name@variant` besides `name`: one model more than once.
    listed = [entry for entry in entries if entry.id.rpartition("@")[0] not in ids]
    return [ListedModel(entry.id, entry.max_model_len) for entry in listed]
