"""An endpoint as a model of lm-evaluation-harness, from Python and from its command line.

    lm_eval.simple_evaluate(model=lightship_lm("http://127.0.0.1:8080", model="fairytales"), tasks=[...])
    python -m lightship.evaluation.harness run --model lightship --model_args base_url=...,model=... --tasks ...

The harness is imported here and nowhere else, when it is needed.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from lightship.errors import MeasurementError, UsageError
from lightship.evaluation.endpoint import DEFAULT_TIMEOUTS
from lightship.evaluation.harness.backend import HarnessBackend, HarnessSettings
from lightship.ports.engine import HopTimeouts
from lightship.ports.progress import Task

MODEL_NAME = "lightship"
_LOGGER = logging.getLogger(__name__)
_INSTALL_HINT = "Install it with: pip install 'lm-eval>=0.4.13,<0.5' (torch is not needed)."
_SETTING_NAMES = ("concurrency", "truncate_context", "add_special_tokens", "prefix_token_id", "context_length")
_ARGUMENT_NAMES = ("base_url", "model", "headers", "total_timeout_s", *_SETTING_NAMES)
# The harness passes these to every model; they are about a model in its own process.
_WITHOUT_EFFECT = frozenset({"batch_size", "max_batch_size", "device"})


def lightship_lm(base_url: str, *, model: str, **arguments: Any) -> Any:
    """A model object for `lm_eval.simple_evaluate(model=...)`.

    Args:
        base_url: Scheme, host and port, with or without the trailing `/v1`.
        model: The name the endpoint serves.
        arguments: Fields of `HarnessSettings`; `headers` (a mapping); `total_timeout_s` per request (default 180).

    Raises: UsageError: the harness is missing or of an unknown version, or an argument is unknown.
    """
    return harness_model_class()(base_url=base_url, model=model, **arguments)


def register_lightship_model() -> None:
    """Makes `--model lightship` known to the harness of this process.

    Raises: UsageError: the harness is missing or of an unknown version.
    Effects: adds one name to the harness's registry; a second call changes nothing.
    """
    model_class = harness_model_class()
    registry = importlib.import_module("lm_eval.api.registry").model_registry
    if MODEL_NAME not in registry:
        registry.register(MODEL_NAME, target=model_class)


@lru_cache(maxsize=1)
def harness_model_class() -> type[Any]:
    """The harness's model class for endpoints.

    Raises: UsageError: the harness is missing or of an unknown version.
    """
    _check_harness()
    from lm_eval.api.model import LM

    class LightshipLM(LM):
        """Scores and generates through an OpenAI-compatible endpoint; see `HarnessBackend`."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__()
            self._backend = backend_of(arguments)

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """See the base class."""
            del disable_tqdm
            pairs = [request.args for request in requests]
            keep = self.cache_hook.add_partial
            answers = self._backend.loglikelihoods(
                pairs, deliver=lambda i, answer: keep("loglikelihood", pairs[i], (answer.nats, answer.is_greedy))
            )
            return [(answer.nats, answer.is_greedy) for answer in answers]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """See the base class."""
            del disable_tqdm
            texts = [request.args[0] for request in requests]
            keep = self.cache_hook.add_partial
            return self._backend.rolling_loglikelihoods(
                texts, deliver=lambda i, nats: keep("loglikelihood_rolling", (texts[i],), nats)
            )

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """See the base class."""
            del disable_tqdm
            asked = [request.args for request in requests]
            keep = self.cache_hook.add_partial
            return self._backend.continuations(asked, deliver=lambda i, text: keep("generate_until", asked[i], text))

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            """Raises: MeasurementError: a chat template is wanted; only the endpoint has one."""
            if chat_template:
                raise _no_chat_template()
            return None

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            """Raises: MeasurementError: only the endpoint has a chat template."""
            del chat_history, add_generation_prompt
            raise _no_chat_template()

        @property
        def tokenizer_name(self) -> str:
            """Name for the harness's request caches."""
            return f"{self._backend.base_url}/{self._backend.model}"

        def get_model_info(self) -> dict[str, Any]:
            """What goes into the `config` of the harness's results: which variant was evaluated."""
            facts = self._backend.facts()
            return {
                "model_served_name": self._backend.model,
                "model_base_url": self._backend.base_url,
                "model_context_length": facts.context_length,
                "model_variant": facts.variant,
                "model_variant_digest": facts.variant_digest,
            }

    return LightshipLM


def backend_of(arguments: Mapping[str, Any]) -> HarnessBackend:
    """The backend for the arguments that the harness, or a user, gives to a model.

    Raises: UsageError: one is unknown, missing or of a wrong kind. MeasurementError: one is out of its bounds.
    """
    for name in arguments:
        if name not in _ARGUMENT_NAMES and name not in _WITHOUT_EFFECT:
            near = difflib.get_close_matches(name, _ARGUMENT_NAMES, n=1)
            raise UsageError(
                f"unknown model argument {name!r}",
                where="lm-eval adapter",
                hint=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_ARGUMENT_NAMES)}.",
            )
    for name in ("base_url", "model"):
        if not arguments.get(name):
            raise UsageError(
                f"{name} is missing",
                where="lm-eval adapter",
                hint="Give --model_args base_url=http://HOST:PORT,model=NAME.",
            )
    ignored = [name for name in sorted(_WITHOUT_EFFECT) if arguments.get(name) is not None]
    if ignored:
        _LOGGER.info("%s: without effect on an endpoint; requests in flight are set by concurrency", ", ".join(ignored))
    total_s = _number(arguments, "total_timeout_s", DEFAULT_TIMEOUTS.total_s)
    return HarnessBackend(
        str(arguments["base_url"]),
        model=str(arguments["model"]),
        settings=HarnessSettings(**{name: _setting(arguments, name) for name in _SETTING_NAMES if name in arguments}),
        headers=arguments.get("headers"),
        timeouts=HopTimeouts(
            connect_s=DEFAULT_TIMEOUTS.connect_s, first_token_s=total_s, next_token_s=total_s, total_s=total_s
        ),
        progress=_HarnessProgress(),
    )


def _setting(arguments: Mapping[str, Any], name: str) -> Any:
    value = arguments[name]
    wants_flag = name in {"truncate_context", "add_special_tokens"}
    is_right = isinstance(value, bool) if wants_flag else isinstance(value, int) and not isinstance(value, bool)
    may_be_none = name in {"prefix_token_id", "context_length"}
    if not is_right and not (value is None and may_be_none):
        kind = "True or False" if wants_flag else "a whole number"
        raise UsageError(f"{name} must be {kind}, got {value!r}", where="lm-eval adapter")
    return value


def _number(arguments: Mapping[str, Any], name: str, default: float) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UsageError(f"{name} must be a number above 0, got {value!r}", where="lm-eval adapter")
    return float(value)


def _check_harness() -> None:
    try:
        version = importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError("lm-evaluation-harness is not installed", hint=_INSTALL_HINT) from error
    patch = re.match(r"0\.4\.(\d+)", version)
    if patch is None or int(patch[1]) < 13:
        raise UsageError(f"lm-evaluation-harness {version} is not one this adapter knows", hint=_INSTALL_HINT)


def _no_chat_template() -> MeasurementError:
    return MeasurementError(
        "the adapter has no chat template: it sends plain texts, and only the endpoint knows the template",
        where="lm-eval adapter",
        hint="Leave out --apply_chat_template, or write the template's text into the task.",
    )


class _HarnessProgress:
    """Draws with the progress bar that comes with the harness."""

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        """See `lightship.ports.progress`."""
        with importlib.import_module("tqdm").tqdm(desc=title) as bar:
            yield _Bar(bar)


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        del note
        self._bar.total = total
        self._bar.update(done - self._bar.n)
