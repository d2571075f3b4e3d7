"""The one base of everything a user writes in `lightship.yaml`.

Not a general configuration library: no I/O, no environment, no mutation after construction.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen section of the spec that refuses unknown keys and values of another type.

    Defaults are validated too, so that one that does not fit to what is set beside it is refused.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )
