"""What an endpoint tells of the model behind it, where it is not ours to look into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.generation import GenerationParameters, generate
from lightship.evaluation.transport import NotServedError

# Letters in and out of English, digits, punctuation, white space and an emoji: where tokenizers differ.
_TEXT = "Lightship 2047: naïve Größe, 東京 und Москва…\n\tif x[0] != 'a': return 3.14159  # 🚢 anti-dis-establish"

_GREETING = "Once upon a time"


@dataclass(frozen=True)
class EndpointIdentity:
    """`served_fingerprint`: the variant's digest or `system_fingerprint`; `model`: the name it answers by.

    `tokenizer_hash`: SHA-256 (hex) over the token ids of a fixed text. "" where the endpoint does not tell.
    """

    served_fingerprint: str
    model: str
    tokenizer_hash: str


async def identify(endpoint: CompletionEndpoint) -> EndpointIdentity:
    """The identity of the model that answers now.

    Raises: MeasurementError: it does not generate; NetworkError: it cannot be reached.
    Effects: up to four small requests.
    """
    one_token = GenerationParameters(max_tokens=1)
    try:
        answer = await generate(endpoint, _GREETING, one_token)
    except NotServedError:  # an endpoint for chats alone
        answer = await generate(endpoint, [{"role": "user", "content": _GREETING}], one_token)
    return EndpointIdentity(
        served_fingerprint=answer.served.fingerprint,
        model=answer.served.model,
        tokenizer_hash=await tokenizer_hash(endpoint),
    )


async def tokenizer_hash(endpoint: CompletionEndpoint) -> str:
    """SHA-256 (hex) over the token ids of a fixed text, or "" where the endpoint shows no ids.

    Equal hashes mean, as far as one text of many scripts tells, the same tokenizer with the same special tokens.

    Raises: NetworkError: the endpoint cannot be reached.
    """
    try:
        ids = (await endpoint.score_prompt(_TEXT, top_k=1)).token_ids
    except MeasurementError:  # it does not score prompts; it may still show ids
        shown = await endpoint.tokenize(_TEXT)
        ids = shown or ()
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest() if ids else ""
