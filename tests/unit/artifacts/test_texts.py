from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.artifacts.texts import MAX_TEXT_BYTES, Document, TextSet, load_texts
from lightship.errors import MeasurementError
from lightship.evaluation.quality.builtin_texts import builtin_texts


def test_builtin_texts_are_32_short_plain_tales() -> None:
    tales = builtin_texts().documents
    assert len({tale.document_id for tale in tales}) == len({tale.text for tale in tales}) == 32
    assert all(150 <= len(tale.text.split()) <= 230 for tale in tales)
    assert all(tale.scored_text.isascii() and tale.heading for tale in tales)


def test_builtin_texts_digest_is_that_of_the_published_protocol() -> None:
    # A changed tale makes every stored figure incomparable: this line changes only with a release note.
    assert builtin_texts().label == "builtin:8b6ecfd6"


def test_document_heading_stands_above_the_text() -> None:
    assert Document("a", "Once.", heading="The Owl").scored_text == "The Owl\n\nOnce."
    assert Document("a", "Once.").scored_text == "Once."


def test_text_set_digest_follows_content_and_order_but_not_ids() -> None:
    one, two = Document("1", "ab"), Document("2", "c")
    digest = TextSet("x", (one, two)).digest
    assert digest == hashlib.sha256(b"2:ab1:c").hexdigest()
    assert digest == TextSet("y", (Document("other", "ab"), two)).digest
    assert digest != TextSet("x", (two, one)).digest
    assert digest != TextSet("x", (Document("1", "a"), Document("2", "bc"))).digest


def test_text_set_first_more_than_there_are_is_refused() -> None:
    texts = TextSet("x", (Document("1", "ab"), Document("2", "c")))
    assert [document.document_id for document in texts.first(1).documents] == ["1"]
    with pytest.raises(MeasurementError, match="3 documents are asked for, 2 are there"):
        texts.first(3)


def test_load_texts_jsonl_reads_ids_headings_and_unicode(tmp_path: Path) -> None:
    path = tmp_path / "held out.jsonl"
    path.write_text('{"text": "L\u2028one", "id": "a"}\n\n{"text": "two", "heading": "H", "author": "N"}\n', "utf-8")
    texts = load_texts(path)
    assert texts.name == "held-out"
    assert texts.documents == (Document("a", "L\u2028one"), Document("line-3", "two", heading="H"))


@dataclass(frozen=True)
class Plain:
    name: str
    content: str
    texts: list[str]


PLAIN = [
    Plain("blank_lines", "one\nmore\n\n \ntwo\r\n\r\nthree\n", ["one\nmore", "two", "three"]),
    Plain("end_of_text", "one\n\nstill one\n<|endoftext|>\ntwo\n<|endoftext|>\n", ["one\n\nstill one", "two"]),
]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_load_texts_plain_is_split_into_documents(case: Plain, tmp_path: Path) -> None:
    path = tmp_path / "stories.txt.gz"
    path.write_bytes(gzip.compress(case.content.encode()))
    texts = load_texts(path)
    assert texts.name == "stories"
    assert [document.text for document in texts.documents] == case.texts
    assert [document.document_id for document in texts.documents][:2] == ["document-1", "document-2"]


@dataclass(frozen=True)
class Bad:
    file_name: str
    content: bytes
    says: str


BAD = [
    Bad("t.jsonl", b'{"text": "a"}\n{"text": \n', "t.jsonl:2: not an object with a `text`"),
    Bad("t.jsonl", b'{"text": "a"}\n{"txet": "b"}\n', "t.jsonl:2: .* missing required field `text`"),
    Bad("t.jsonl", b'{"text": 5}\n', "t.jsonl:1: .*Expected `str`"),
    Bad("t.jsonl", b'["a"]\n', "t.jsonl:1: .*Expected `object`"),
    Bad("t.jsonl", b'{"text": "\\ud800"}\n', "t.jsonl:1: not an object"),
    Bad("t.jsonl", b'{"text": "a"}\n{"text": " \\n"}\n', "t.jsonl:2: the text is empty"),
    Bad(
        "t.jsonl",
        b'{"text": "a", "id": 7}\n{"text": "b", "id": "8"}\n{"text": "c", "id": "7"}\n',
        "t.jsonl:3: the id '7' occurs twice, first on line 1",
    ),
    Bad("t.jsonl", b"\n\n", "no documents"),
    Bad("t.txt", b" \n\n", "no documents"),
    Bad("t.txt", b"one\ntwo \xff\n", "t.txt:2: not UTF-8"),
    Bad("t.csv", b"text\n", "not a known kind"),
    Bad("t.txt.gz", b"not gzip", "cannot read the texts"),
    Bad("t.txt.gz", gzip.compress(b"one" * 100)[:-12], "cannot read the texts"),
    Bad("t.txt.gz", gzip.compress(b" " * (MAX_TEXT_BYTES + 1)), f"over {MAX_TEXT_BYTES} bytes"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.says[:40])
def test_load_texts_bad_file_is_refused_with_the_place(case: Bad, tmp_path: Path) -> None:
    path = tmp_path / case.file_name
    path.write_bytes(case.content)
    with pytest.raises(MeasurementError, match=case.says):
        load_texts(path)


def test_load_texts_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"cannot read the texts: .*No such file"):
        load_texts(tmp_path / "none.txt")
