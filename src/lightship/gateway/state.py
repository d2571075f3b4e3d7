"""Where the state lives that a gateway keeps beyond a request: counters of limits and budgets, stored answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from lightship.errors import UsageError


class StateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of three: memory (both empty), SQLite files in a folder, or a Redis server that several gateways share.

    Args:
        folder: Absolute path; SQLite files in it are shared by the processes of this machine.
        redis_url: `redis://`, `rediss://` or `unix://`; then `folder` is only used for what must not be shared.
        redis_url_env: Environment variable that holds the address, so that no password stands in a file.
        redis_timeout_s: Of one call.
    """

    folder: str = ""
    redis_url: str = ""
    redis_url_env: str = ""
    redis_timeout_s: float = 0.05


def resolved(state: StateConfig, environment: Mapping[str, str]) -> StateConfig:
    """The state with the address that the environment holds.

    Raises: UsageError: the variable is not set, or holds no address.
    """
    if not state.redis_url_env:
        return state
    url = environment.get(state.redis_url_env, "").strip()
    found = msgspec.structs.replace(state, redis_url=url, redis_url_env="")
    if not url or any(state_problems(found)):
        what = f"the environment variable {state.redis_url_env} " + (
            "is not set" if not url else "holds no Redis address"
        )
        raise UsageError(what, where="state", hint="Set it to redis://[:password@]host:port/number.")
    return found


def state_problems(state: StateConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    if state.folder and not state.folder.startswith("/"):
        yield f"folder: must be an absolute path, got {state.folder!r}"
    if state.redis_url and urlsplit(state.redis_url).scheme not in {"redis", "rediss", "unix"}:
        yield "redis_url: must begin with redis://, rediss:// or unix://"  # it may hold a password: not repeated here
    if state.redis_url and state.redis_url_env:
        yield "redis_url_env: must not be given beside redis_url"
    if not 0 < state.redis_timeout_s <= 10:
        yield f"redis_timeout_s: must be above 0 and at most 10, got {state.redis_timeout_s:g}"
