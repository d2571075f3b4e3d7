"""A simulated engine in virtual time: what the load loops are tested against."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from lightship.evaluation.performance.answers import EndpointError
from lightship.evaluation.performance.connections import Receiver
from lightship.evaluation.performance.records import ErrorKind


@dataclass
class SimulatedEngine:
    """Every answer takes `prefill_s` to the first token and `step_s` for each further one, whatever the load.

    A prompt has a token for every four characters, of which `cached_share` came from a cache.
    """

    prefill_s: float
    step_s: float
    failing: Callable[[int], bool] = lambda number: False
    cached_share: float = 0.0
    bodies: list[dict[str, object]] = field(default_factory=list)

    async def exchange(self, body: bytes, receiver: Receiver) -> None:
        """See `CompletionEndpoint`."""
        request = json.loads(body)
        number = len(self.bodies)
        self.bodies.append(request)
        if self.failing(number):
            await asyncio.sleep(self.prefill_s)
            raise EndpointError(ErrorKind.CONNECT, "refused")
        receiver.start(200)
        num_tokens = request["max_tokens"]
        for index in range(num_tokens):
            await asyncio.sleep(self.step_s if index else self.prefill_s)
            receiver.receive(b'data: {"choices":[{"text":"x"}]}\n\n')
        num_prompt_tokens = len(request["prompt"]) // 4
        details = {"cached_tokens": round(num_prompt_tokens * self.cached_share)}
        usage = {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_tokens,
            "prompt_tokens_details": details,
        }
        receiver.receive(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        receiver.receive(b"data: [DONE]\n\n")


@pytest.fixture
def simulated_engine() -> type[SimulatedEngine]:
    """The class, since test modules cannot import this file."""
    return SimulatedEngine


@pytest.fixture
def numbered_prompts() -> Iterator[str]:
    """Prompts of 64 characters, without end."""
    return (f"prompt {number} ".ljust(64, ".") for number in count())
