"""What the spec declares but this version does not do yet; setting it is refused, never ignored.

Shrink `NOT_SUPPORTED_YET` when a part learns to honour its setting; nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightship.spec.document import Spec
from lightship.spec.explain import leaves
from lightship.spec.paths import Path
from lightship.spec.problems import Problem, show_short

# Path of a value, or of a section with everything below it; only its default is accepted.
NOT_SUPPORTED_YET: tuple[Path, ...] = (
    ("engines", "simulated"),
    ("gateway", "cache", "semantic"),
)


def unsupported_settings(spec: Spec) -> Iterator[Problem]:
    """A problem for each setting of `spec` that differs from its default and cannot be honoured yet."""
    defaults, given = leaves(Spec()), leaves(spec)
    for path in NOT_SUPPORTED_YET:
        if path not in given:  # a section that is left out by default, and is not left out here
            yield Problem(path, "this section is not supported yet", "Remove it.")
        elif given[path] != defaults[path]:
            is_compound = isinstance(given[path], dict | list)
            what = "this setting" if is_compound else show_short(given[path])
            yield Problem(path, f"{what} is not supported yet", f"Keep the default, {show_short(defaults[path])}.")
