"""From a request of the OpenAI API to what this engine does, or a 400 that names what it cannot honour. Pure.

Every field of a request is either used, or refused, or accepted because its value asks for nothing (a neutral value).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightship.engines.openvino.frames import FieldValue
from lightship.wire.errors import context_length_exceeded, invalid_request, unsupported_parameter
from lightship.wire.requests import ChatRequest, CompletionRequest, TokenizeRequest

MAX_CHOICES = 16
MAX_PROMPTS = 256
MAX_STOP_STRINGS = 16
MAX_COMPLETION_LOGPROBS = 64
MAX_CHAT_TOP_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16
_SEED_MODULUS = 2**64


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `seed` None means a different result each time; `top_k` 0 means all tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def takes_models_favourite(self) -> bool:
        """Whether each token is the most likely one of the unchanged model."""
        is_unchanged = (self.frequency_penalty, self.presence_penalty, self.repetition_penalty) == (0.0, 0.0, 1.0)
        return self.is_greedy and is_unchanged and self.min_tokens == 0 and not self.ignore_eos


@dataclass(frozen=True)
class GenerationOptions:
    """One request, checked.

    `max_tokens` None asks for the rest of the context. `num_top_logprobs` is None without log-probabilities, 0 for
    those of the chosen tokens alone.
    """

    sampling: Sampling
    num_choices: int
    max_tokens: int | None
    stop: tuple[str, ...]
    num_top_logprobs: int | None
    is_streaming: bool
    includes_usage: bool
    has_running_usage: bool
    echoes_prompt: bool = False
    names_tokens_by_id: bool = False
    add_special_tokens: bool = True

    @property
    def needs_scorer(self) -> bool:
        """Whether log-probabilities are asked for that the pipeline does not give."""
        if self.num_top_logprobs is None:
            return False
        has_only_favourites = self.num_top_logprobs == 1 and self.sampling.takes_models_favourite
        return self.echoes_prompt or not (self.num_top_logprobs == 0 or has_only_favourites)

    @property
    def pipeline_gives_logprobs(self) -> bool:
        """Whether the pipeline is to report log-probabilities."""
        return self.num_top_logprobs is not None and not self.needs_scorer


def completion_options(request: CompletionRequest) -> GenerationOptions:
    """What `/v1/completions` asks for.

    Raises: ApiError: 400, naming the parameter.
    """
    _refuse_unless_neutral(request, _COMPLETION_NEUTRAL)
    num_choices = _in_range("n", request.n, 1, MAX_CHOICES, default=1)
    if request.best_of not in (None, num_choices):
        raise unsupported_parameter("best_of", reason="choices are not ranked; leave it out or set it to n.")
    echoes_prompt = bool(request.echo)
    max_tokens = _in_range(
        "max_tokens", request.max_tokens, 0 if echoes_prompt else 1, 2**31, default=DEFAULT_COMPLETION_TOKENS
    )
    options = GenerationOptions(
        sampling=_sampling(request, max_tokens=max_tokens),
        num_choices=num_choices,
        max_tokens=max_tokens,
        stop=_stop_strings(request.stop),
        num_top_logprobs=None
        if request.logprobs is None
        else _in_range("logprobs", request.logprobs, 0, MAX_COMPLETION_LOGPROBS, default=0),
        is_streaming=bool(request.stream),
        includes_usage=_includes_usage(request),
        has_running_usage=_has_running_usage(request),
        echoes_prompt=echoes_prompt,
        names_tokens_by_id=bool(request.return_tokens_as_token_ids),
        add_special_tokens=request.add_special_tokens is not False,
    )
    if options.names_tokens_by_id and options.num_top_logprobs is None:
        raise invalid_request(
            "return_tokens_as_token_ids needs logprobs: tokens are only returned there.",
            param="return_tokens_as_token_ids",
        )
    _refuse_streamed_scores(options, param="logprobs")
    return options


def chat_options(request: ChatRequest) -> GenerationOptions:
    """What `/v1/chat/completions` asks for.

    Raises: ApiError: 400, naming the parameter.
    """
    _refuse_unless_neutral(request, _CHAT_NEUTRAL)
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise invalid_request("max_tokens and max_completion_tokens differ; send one of them.", param="max_tokens")
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    value = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    max_tokens = None if value is None else _in_range(name, value, 1, 2**31, default=1)
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid_request("top_logprobs needs logprobs: true.", param="top_logprobs")
    num_top = _in_range("top_logprobs", request.top_logprobs, 0, MAX_CHAT_TOP_LOGPROBS, default=0)
    options = GenerationOptions(
        sampling=_sampling(request, max_tokens=max_tokens),
        num_choices=_in_range("n", request.n, 1, MAX_CHOICES, default=1),
        max_tokens=max_tokens,
        stop=_stop_strings(request.stop),
        num_top_logprobs=num_top if request.logprobs else None,
        is_streaming=bool(request.stream),
        includes_usage=_includes_usage(request),
        has_running_usage=_has_running_usage(request),
    )
    _refuse_streamed_scores(options, param="top_logprobs")
    return options


def check_tokenize(request: TokenizeRequest) -> None:
    """Returns when the request can be honoured.

    Raises: ApiError: 400, naming the parameter.
    """
    _refuse_unless_neutral(request, _TOKENIZE_NEUTRAL)
    if (request.prompt is None) == (request.messages is None):
        raise invalid_request("Send either prompt or messages.", param="prompt")


def resolve_max_tokens(options: GenerationOptions, *, num_prompt_tokens: int, context_length: int, param: str) -> int:
    """Tokens to generate after a prompt of this length.

    Raises: ApiError: 400, prompt and output do not fit the context together.
    """
    room = context_length - num_prompt_tokens
    wanted = max(1, room) if options.max_tokens is None else options.max_tokens
    if wanted > room:
        error = context_length_exceeded(
            num_prompt_tokens=num_prompt_tokens, max_tokens=wanted, context_length=context_length
        )
        error.param = param
        raise error
    return wanted


def config_fields(sampling: Sampling, *, max_tokens: int, seed: int, with_logprobs: bool) -> dict[str, FieldValue]:
    """Attributes of GenAI's GenerationConfig for one sequence.

    Args:
        seed: Seed of this sequence's own random generator; GenAI's default would give every request the same text.
    """
    fields: dict[str, FieldValue] = {"max_new_tokens": max_tokens}
    if with_logprobs:
        fields["logprobs"] = 1
    if sampling.ignore_eos:
        fields["ignore_eos"] = True
    if sampling.min_tokens:
        fields["min_new_tokens"] = sampling.min_tokens
    for name, neutral in (("frequency_penalty", 0.0), ("presence_penalty", 0.0), ("repetition_penalty", 1.0)):
        value = getattr(sampling, name)
        if value != neutral:
            fields[name] = float(value)
    if sampling.is_greedy:
        return fields
    fields |= {"do_sample": True, "temperature": float(sampling.temperature), "rng_seed": seed % _SEED_MODULUS}
    if sampling.top_p < 1.0:
        fields["top_p"] = float(sampling.top_p)
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.min_p > 0.0:
        fields["min_p"] = float(sampling.min_p)
    return fields


def _sampling(request: CompletionRequest | ChatRequest, *, max_tokens: int | None) -> Sampling:
    min_tokens = _in_range("min_tokens", request.min_tokens, 0, 2**31, default=0)
    if max_tokens is not None and min_tokens > max_tokens:
        raise invalid_request(f"min_tokens is {min_tokens}, but max_tokens is {max_tokens}.", param="min_tokens")
    top_k = _in_range("top_k", request.top_k, -1, 2**31, default=0)
    return Sampling(
        temperature=_real_in_range("temperature", request.temperature, 0.0, 2.0, default=1.0),
        top_p=_real_in_range("top_p", request.top_p, 0.0, 1.0, default=1.0, excludes_low=True),
        top_k=max(0, top_k),
        min_p=_real_in_range("min_p", request.min_p, 0.0, 1.0, default=0.0),
        seed=request.seed,
        frequency_penalty=_real_in_range("frequency_penalty", request.frequency_penalty, -2.0, 2.0, default=0.0),
        presence_penalty=_real_in_range("presence_penalty", request.presence_penalty, -2.0, 2.0, default=0.0),
        repetition_penalty=_real_in_range(
            "repetition_penalty", request.repetition_penalty, 0.0, 10.0, default=1.0, excludes_low=True
        ),
        min_tokens=min_tokens,
        ignore_eos=bool(request.ignore_eos),
    )


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    if len(strings) > MAX_STOP_STRINGS:
        raise invalid_request(f"stop has {len(strings)} strings; at most {MAX_STOP_STRINGS} work.", param="stop")
    if "" in strings:
        raise invalid_request("A stop string is empty.", param="stop")
    return tuple(strings)


def _includes_usage(request: CompletionRequest | ChatRequest) -> bool:
    if request.stream_options is None:
        return False
    if not request.stream:
        raise invalid_request("stream_options needs stream: true.", param="stream_options")
    if request.stream_options.include_obfuscation:
        raise unsupported_parameter("stream_options.include_obfuscation", reason="chunks are sent without padding.")
    return request.stream_options.include_usage


def _has_running_usage(request: CompletionRequest | ChatRequest) -> bool:
    """Whether every chunk carries the counts so far: an extension of vLLM's that load generators ask for."""
    options = request.stream_options
    if options is None or not options.continuous_usage_stats:
        return False
    if not options.include_usage:
        raise invalid_request("continuous_usage_stats needs include_usage: true.", param="stream_options")
    return True


def _refuse_streamed_scores(options: GenerationOptions, *, param: str) -> None:
    if not (options.is_streaming and options.needs_scorer):
        return
    if options.echoes_prompt:
        raise unsupported_parameter("echo", reason="with logprobs it works without stream only.")
    raise unsupported_parameter(
        param,
        reason="alternatives of sampled tokens are computed after the text is complete, so they need stream: false.",
    )


def _in_range(name: str, value: int | None, low: int, high: int, *, default: int) -> int:
    if value is None:
        return default
    if not low <= value <= high:
        raise invalid_request(f"{name} must be from {low} to {high}, got {value}.", param=name)
    return value


def _real_in_range(
    name: str, value: float | None, low: float, high: float, *, default: float, excludes_low: bool = False
) -> float:
    if value is None:
        return default
    if not low <= value <= high or (excludes_low and value == low):
        bounds = f"over {low:g} and at most {high:g}" if excludes_low else f"from {low:g} to {high:g}"
        raise invalid_request(f"{name} must be {bounds}, got {value:g}.", param=name)
    return value


@dataclass(frozen=True)
class _Neutral:
    """Values of a field that ask for nothing, beside null, and why any other is refused."""

    values: tuple[Any, ...]
    reason: str


_NO_TOOLS = "this engine does not call tools."
_SHARED_NEUTRAL: Mapping[str, _Neutral] = {
    "logit_bias": _Neutral(({},), "the pipeline has no bias per token."),
}
_COMPLETION_NEUTRAL: Mapping[str, _Neutral] = {
    **_SHARED_NEUTRAL,
    "suffix": _Neutral(("",), "the model only continues a text."),
}
_CHAT_NEUTRAL: Mapping[str, _Neutral] = {
    **_SHARED_NEUTRAL,
    "tools": _Neutral(([],), _NO_TOOLS),
    "tool_choice": _Neutral(("none", "auto"), _NO_TOOLS),
    "functions": _Neutral(([],), _NO_TOOLS),
    "function_call": _Neutral(("none", "auto"), _NO_TOOLS),
    "response_format": _Neutral(({"type": "text"},), "only text is generated."),
    "reasoning_effort": _Neutral(("none",), "there is no control of reasoning."),
    "modalities": _Neutral((["text"],), "only text is generated."),
    "audio": _Neutral((), "only text is generated."),
    "prediction": _Neutral((), "predicted output is not used."),
    "service_tier": _Neutral(("auto", "default"), "there is one tier."),
    "store": _Neutral((False,), "nothing is stored."),
    "verbosity": _Neutral(("medium",), "there is no control of verbosity."),
    "web_search_options": _Neutral((), "nothing is searched."),
    "prompt_cache_retention": _Neutral(("in_memory", "in-memory"), "the prefix cache lives in memory only."),
}
_TOKENIZE_NEUTRAL: Mapping[str, _Neutral] = {
    "add_generation_prompt": _Neutral((True,), "a conversation always ends with the prompt for the answer."),
    "continue_final_message": _Neutral((False,), "a conversation always ends with the prompt for the answer."),
    "chat_template": _Neutral((), "the model's own chat template is used."),
    "chat_template_kwargs": _Neutral(({},), "the model's own chat template is used as it is."),
    "tools": _Neutral(([],), _NO_TOOLS),
}
ACCEPTED_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
"""Fields that say who asks, or what to file an answer under; the answer does not depend on them."""


def _refuse_unless_neutral(
    request: CompletionRequest | ChatRequest | TokenizeRequest, neutral: Mapping[str, _Neutral]
) -> None:
    for name, rule in neutral.items():
        value = getattr(request, name)
        if value is not None and value not in rule.values:
            raise unsupported_parameter(name, reason=rule.reason)
