"""Names of everything that is rendered, made once: two documents that name one thing cannot disagree.

Names follow RFC 1035 labels (small letters, digits, hyphens, a letter first, at most 63 characters), the strictest
rule among Services, label values, Compose and systemd. What users call their models may break it (slashes, dots); that
name stands in annotations and commands only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightship.errors import SpecError

MAX_NAME_CHARS = 63
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
# The longest that is added to the prefix, apart from a variant's name.
_FIXED = ("gateway", "gateway-config", "gateway-state", "gateway-tls", "secrets", "models", "models-copy", "scaler")


@dataclass(frozen=True)
class Names:
    """Names with one prefix; `rungs` are those of the rungs, top first."""

    prefix: str
    rungs: tuple[str, ...]

    @property
    def gateway(self) -> str:
        """The gateway's workload and Service."""
        return f"{self.prefix}-gateway"

    @property
    def gateway_config(self) -> str:
        """What it reads."""
        return f"{self.prefix}-gateway-config"

    @property
    def gateway_state(self) -> str:
        """The volume of what must outlast it."""
        return f"{self.prefix}-gateway-state"

    @property
    def gateway_tls(self) -> str:
        """The secret with its certificate."""
        return f"{self.prefix}-gateway-tls"

    @property
    def secrets(self) -> str:
        """The secret that holds environment variables."""
        return f"{self.prefix}-secrets"

    @property
    def models(self) -> str:
        """The claim that holds all models."""
        return f"{self.prefix}-models"

    @property
    def models_job(self) -> str:
        """The job that fills it."""
        return f"{self.prefix}-models-copy"

    @property
    def scaler(self) -> str:
        """Role, binding and lease of whoever changes the number of replicas."""
        return f"{self.prefix}-scaler"


def plain_name(text: str) -> str:
    """The text in small letters, digits and hyphens; "" where nothing is left.

    >>> plain_name("Qwen/Qwen2.5-7B_Chat")
    'qwen-qwen2-5-7b-chat'
    """
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-")


def make_names(prefix: str, model_name: str, variant_names: Sequence[str]) -> Names:
    """The names of a deployment.

    Args:
        prefix: As the spec gives it; `auto` is made of the model's name.
        model_name: What clients send.
        variant_names: Of the rungs, top first.

    Raises: SpecError: a name gets too long, or two rungs get the same.
    """
    chosen = prefix
    if prefix == "auto":
        chosen = plain_name(model_name)
        chosen = chosen if chosen[:1].isalpha() else f"model-{chosen}".rstrip("-")
    rungs = tuple(f"{chosen}-{plain_name(name)}" for name in variant_names)
    longest = max((*rungs, *(f"{chosen}-{suffix}" for suffix in _FIXED)), key=len)
    if len(longest) > MAX_NAME_CHARS:
        room = len(chosen) - (len(longest) - MAX_NAME_CHARS)
        hint = f"Set deploy.name to at most {room} characters." if room > 0 else "Give the variant a shorter name."
        what = f"the name {longest!r} has {len(longest)} characters, and platforms allow {MAX_NAME_CHARS}"
        raise SpecError(what, where="deploy.name", hint=hint)
    if _NAME.fullmatch(chosen) is None:
        raise SpecError(f"{chosen!r} is no name", where="deploy.name", hint="Use small letters, digits and hyphens.")
    taken = dict(zip(rungs, variant_names, strict=True))
    if len(taken) < len(rungs):
        again = next(name for name, got in zip(variant_names, rungs, strict=True) if taken[got] != name)
        what = f"the variants {again!r} and {taken[f'{chosen}-{plain_name(again)}']!r} get the same name"
        raise SpecError(what, where="ladder", hint="Names differ in letters and digits only; rename one recipe.")
    fixed = {f"{chosen}-{suffix}" for suffix in _FIXED}
    if clash := fixed & set(rungs):
        raise SpecError(f"{min(clash)!r} is taken", where="ladder", hint="Rename that recipe.")
    return Names(chosen, rungs)
