from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightship.artifacts.draft_file import Draft, encode_draft, read_draft
from lightship.errors import ArtifactError


def test_draft_written_is_read_back(tmp_path: Path) -> None:
    draft = Draft(method="ngram", num_speculative_tokens=7, prompt_lookup_min=1, prompt_lookup_max=3)
    (tmp_path / "draft.json").write_bytes(encode_draft(draft))
    assert read_draft(tmp_path) == draft


def test_read_draft_variant_without_one_gives_none(tmp_path: Path) -> None:
    assert read_draft(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        {"method": "eagle"},
        {"method": "ngram", "num_speculative_tokens": 0},
        {"method": "ngram", "prompt_lookup_min": 5, "prompt_lookup_max": 4},
        {"method": "ngram", "folder": "/etc"},
        [],
    ],
    ids=str,
)
def test_read_draft_that_is_none_names_the_file(content: object, tmp_path: Path) -> None:
    (tmp_path / "draft.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"draft\.json"):
        read_draft(tmp_path)


def test_read_draft_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "draft.json").write_bytes(encode_draft(Draft(method="model")))
    with pytest.raises(ArtifactError, match="not there"):
        read_draft(tmp_path)
