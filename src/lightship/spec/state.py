"""Where the gateway keeps what must outlast it, or be shared by several of them."""

from __future__ import annotations

from pydantic import Field

from lightship.spec.base import StrictModel


class StateSpec(StrictModel):
    """Files on this machine by default; a Redis server when several gateways share limits, budgets and answers."""

    redis_url: str = Field(
        default="none",
        pattern=r"^(none|(redis|rediss|unix)://[^\s@]+)$",
        max_length=2048,
        examples=["redis://127.0.0.1:6379/0"],
        description="Address of a Redis or Valkey server, without a password; `none` keeps files on this machine.",
    )
    redis_url_env: str = Field(
        default="none",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        max_length=128,
        examples=["REDIS_URL"],
        description="Environment variable that holds the address, where it has a password; `none`: see `redis_url`.",
    )
    redis_timeout_ms: float = Field(
        default=50,
        gt=0,
        le=10_000,
        description="Longest wait for Redis, after which the gateway goes on alone. Unit: milliseconds.",
    )
