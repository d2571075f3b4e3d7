"""The paths of the API that take a body: one table of what each is, for all who route, bound, meter or describe.

A path that is not here is not served. What an engine has not got, the engine refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHAT_COMPLETIONS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"


@dataclass(frozen=True, slots=True)
class ApiPath:
    """One path.

    Args:
        path: Where engines have it, which clients may call by other names too.
        summary: What it does, in a line.
        prompt_fields: Top-level fields of the body that hold the prompt.
        output_limit_fields: Top-level fields that bound the tokens of an answer; the first one is set where none is.
            Empty where nothing is generated.
        choices_fields: Top-level fields whose number multiplies what is generated.
        is_streamable: Whether `stream` has a meaning.
        ends_with_done: Whether a stream ends with `[DONE]`.
        takes_stream_options: Whether usage at the end of a stream must be asked for.
    """

    path: str
    summary: str
    prompt_fields: tuple[str, ...]
    output_limit_fields: tuple[str, ...] = ()
    choices_fields: tuple[str, ...] = ()
    is_streamable: bool = False
    ends_with_done: bool = False
    takes_stream_options: bool = False

    @property
    def generates(self) -> bool:
        """Whether the model writes text for it."""
        return bool(self.output_limit_fields)


_CHAT = ApiPath(
    CHAT_COMPLETIONS,
    "Answer a conversation",
    prompt_fields=("messages",),
    output_limit_fields=("max_tokens", "max_completion_tokens"),
    choices_fields=("n",),
    is_streamable=True,
    ends_with_done=True,
    takes_stream_options=True,
)
_COMPLETIONS = ApiPath(
    COMPLETIONS,
    "Continue a text",
    prompt_fields=("prompt",),
    output_limit_fields=("max_tokens",),
    choices_fields=("n", "best_of"),
    is_streamable=True,
    ends_with_done=True,
    takes_stream_options=True,
)
_RESPONSES = ApiPath(
    RESPONSES,
    "Answer a conversation, as items",
    prompt_fields=("input", "instructions"),
    output_limit_fields=("max_output_tokens",),
    is_streamable=True,
)
_EMBEDDINGS = ApiPath(EMBEDDINGS, "Vectors of texts", prompt_fields=("input",))
_TOKENIZE = ApiPath(TOKENIZE, "Tokens of a text or a conversation", prompt_fields=("prompt", "messages"))
_DETOKENIZE = ApiPath(DETOKENIZE, "The text of tokens", prompt_fields=("tokens",))

API_PATHS: Mapping[str, ApiPath] = {
    CHAT_COMPLETIONS: _CHAT,
    COMPLETIONS: _COMPLETIONS,
    RESPONSES: _RESPONSES,
    EMBEDDINGS: _EMBEDDINGS,
    TOKENIZE: _TOKENIZE,
    DETOKENIZE: _DETOKENIZE,
    "/v1" + TOKENIZE: _TOKENIZE,
    "/v1" + DETOKENIZE: _DETOKENIZE,
}
"""By the path that clients call."""
