"""vLLM's server arguments as other systems take them: those who bring the server, but not its settings. Pure."""

from __future__ import annotations

import json
from typing import Any

from lightship.errors import SpecError
from lightship.ports.deployment import DeployedRung

# What belongs to the process, not to the engine in it.
_OF_THE_SERVER = frozenset(
    {
        "model",
        "served-model-name",
        "host",
        "port",
        "shutdown-timeout",
        "disable-uvicorn-access-log",
        "max-num-queued-reqs",
    }
)


def engine_options(rung: DeployedRung, *, platform: str) -> dict[str, str | None]:
    """Options of the engine, name to value as written; None for a flag.

    Raises: SpecError: the rung is served by another engine than vLLM.
    """
    if rung.engine != "vllm":
        raise SpecError(
            f"{platform} serves models with vLLM, and {rung.variant_name} runs on {rung.engine}",
            where="ladder",
            hint="Choose variants for vLLM (`lightship recipes ls`), or another platform, like kubernetes.",
        )
    options: dict[str, str | None] = {}
    for word in rung.command:
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            if name not in _OF_THE_SERVER:
                options[name] = value if has_value else None
    return options


def as_arguments(options: dict[str, str | None]) -> list[str]:
    """The options as words of a command line."""
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]


def as_keywords(options: dict[str, str | None]) -> dict[str, Any]:
    """The options as keyword arguments of vLLM's engine.

    `auto` as the longest context is -1 there. Source: vLLM's `EngineArgs.max_model_len` and its command line.
    """
    keywords: dict[str, Any] = {}
    for name, value in options.items():
        key = name.replace("-", "_")
        if value is None:
            is_negated = key.startswith("no_")
            keywords[key.removeprefix("no_")] = not is_negated
        elif key == "max_model_len" and value == "auto":
            keywords[key] = -1
        else:
            keywords[key] = _plain(value)
    return keywords


def _plain(value: str) -> Any:
    """A number, a mapping or a text."""
    if value.lstrip("-").isdigit():
        return int(value)
    return json.loads(value) if value.startswith("{") else value
