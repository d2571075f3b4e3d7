"""`draft.json` in a variant: how tokens are proposed ahead of the model, which then checks several at a time.

A speculative draft changes speed and never what is generated, so it belongs to a variant without being weights of it.
The recipe step writes the file; the engine that can do it reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lightship.errors import ArtifactError

DRAFT_NAME = "draft.json"
DRAFT_FOLDER = "draft"
# More than this is never accepted in a row, and every proposed token is computed.
MAX_SPECULATIVE_TOKENS = 16

DraftMethod = Literal["ngram", "model"]
SpeculativeTokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_SPECULATIVE_TOKENS)]
LookupTokens = Annotated[int, msgspec.Meta(ge=1, le=64)]


class Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How tokens are proposed.

    Args:
        method: `ngram`: what followed the last tokens when they stood earlier in the text. `model`: a small model,
            which lies in the folder `draft` of the variant.
        num_speculative_tokens: Tokens proposed per step.
        prompt_lookup_min: Fewest last tokens that must be found again (`ngram`).
        prompt_lookup_max: Most last tokens that are looked for (`ngram`).
    """

    method: DraftMethod
    num_speculative_tokens: SpeculativeTokens = 3
    prompt_lookup_min: LookupTokens = 2
    prompt_lookup_max: LookupTokens = 4

    def __post_init__(self) -> None:
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError(
                f"prompt_lookup_min ({self.prompt_lookup_min}) is above prompt_lookup_max ({self.prompt_lookup_max})"
            )


def encode_draft(draft: Draft) -> bytes:
    """The draft as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(draft), indent=1) + b"\n"


def read_draft(folder: Path) -> Draft | None:
    """The draft of the variant in `folder`; None where it has none.

    Raises: ArtifactError: the file is not a draft, or the model it names is not there.
    """
    path = folder / DRAFT_NAME
    try:
        draft = msgspec.json.decode(path.read_bytes(), type=Draft)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"not a draft: {error}", where=str(path), hint="Build the variant again.") from error
    if draft.method == "model" and not (folder / DRAFT_FOLDER / "config.json").is_file():
        raise ArtifactError(
            "the draft model that it names is not there",
            where=str(folder / DRAFT_FOLDER),
            hint="Build the variant again; the step `draft` comes last in a recipe.",
        )
    return draft
