"""How requests are held for models that wake, and who wakes them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec


class ActivationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a gateway does about rungs whose replicas somebody starts and stops.

    Args:
        control_socket: Of the supervisor on this machine; "" where there is none.
        max_held: Requests of one model and one class that may wait for it to wake; more are refused.
        hold_s: Longest time a stream is held.
        whole_answer_hold_s: Longest time a request for a whole answer is held: nothing can be sent to keep its
            connection open, so it is below the time limits that clients and proxies commonly have (60 s).
        keep_alive_s: A stream that is held so long gets its headers and a comment, and another one each time it is
            over again. Before that its status is still open.
    """

    control_socket: str = ""
    max_held: int = 1024
    hold_s: float = 300.0
    whole_answer_hold_s: float = 55.0
    keep_alive_s: float = 10.0


def activation_problems(config: ActivationConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    if config.max_held < 1:
        yield f"max_held: must be at least 1, got {config.max_held}"
    for key in ("hold_s", "whole_answer_hold_s", "keep_alive_s"):
        if not 0 < getattr(config, key) < math.inf:
            yield f"{key}: must be above 0 and finite, got {getattr(config, key):g}"
