"""What text quality asks of an endpoint, however it comes by the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightship.evaluation.endpoint import EndpointTraits, PromptLogprobs


class ScoringEndpoint(Protocol):
    """A model that tells log-probabilities of prompts.

    `CompletionEndpoint` asks for them; `PrefixScoringEndpoint` has a server predict after every prefix.
    """

    @property
    def base_url(self) -> str:
        """Scheme, host and port."""
        ...

    @property
    def concurrent_prompts(self) -> int:
        """How many prompts are worth asking for at a time; known after the probe."""
        ...

    async def score_prompt(self, prompt: str | Sequence[int], *, top_k: int) -> PromptLogprobs:
        """Log-probabilities of every token of a text (or of these token ids), with the `top_k` likeliest alternatives.

        Raises:
            PromptTooLongError: the text does not fit the context.
            MeasurementError: the endpoint refuses, or answers with something else.
            NetworkError: it cannot be reached, breaks off, stays busy, or takes too long.
        """
        ...

    async def tokenize(self, text: str) -> tuple[int, ...] | None:
        """Token ids of `text` as a prompt has them, special tokens included; None where the endpoint tells none."""
        ...

    async def probe_prompt_logprobs(self, *, top_k: int) -> EndpointTraits:
        """Traits of an endpoint that was shown to return real log-probabilities.

        Raises: MeasurementError: it does not. NetworkError: see `score_prompt`.
        """
        ...
