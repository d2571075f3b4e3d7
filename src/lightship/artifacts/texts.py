"""Sets of texts: to score, to calibrate on, to train on. A digest names what was used.

Texts that a variant was trained or calibrated on must not be scored; `overlap` finds those that are in two sets.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lightship.errors import MeasurementError

MAX_TEXT_BYTES = 64 * 2**20
END_OF_TEXT = "<|endoftext|>"
_SUFFIXES = (".jsonl", ".txt")


@dataclass(frozen=True)
class Document:
    """One text with an id that is unique in its set."""

    document_id: str
    text: str
    heading: str | None = None

    @property
    def scored_text(self) -> str:
        """What is scored: "heading, empty line, text" where there is a heading."""
        return self.text if self.heading is None else f"{self.heading}\n\n{self.text}"


@dataclass(frozen=True)
class TextSet:
    """Documents in a fixed order under a short name (`builtin`, or a file's stem)."""

    name: str
    documents: tuple[Document, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the scored texts in order; ids play no part, since figures do not depend on them."""
        total = hashlib.sha256()
        for document in self.documents:
            content = document.scored_text.encode()
            total.update(f"{len(content)}:".encode())
            total.update(content)
        return total.hexdigest()

    @property
    def label(self) -> str:
        """Name and eight digits of the digest, for protocol names."""
        return f"{self.name}:{self.digest[:8]}"

    def first(self, num_documents: int) -> TextSet:
        """The first documents as a set of their own.

        Raises: MeasurementError: fewer are there than asked for.
        """
        if not 1 <= num_documents <= len(self.documents):
            raise MeasurementError(
                f"{num_documents} documents are asked for, {len(self.documents)} are there", where=self.name
            )
        return TextSet(name=self.name, documents=self.documents[:num_documents])


def load_texts(path: Path) -> TextSet:
    """The documents of a file, in order.

    `.jsonl`: one object per line with `text`, optionally `heading` and `id` (default: the line number); other fields
    play no part. `.txt`: documents separated by `<|endoftext|>` where it occurs, else by empty lines. Both may end in
    `.gz`.

    Raises: MeasurementError: unreadable, malformed, empty, over the size limit, or an id occurs twice; names the line.
    """
    plain_name = path.name.removesuffix(".gz")
    suffix = next((suffix for suffix in _SUFFIXES if plain_name.endswith(suffix)), None)
    if suffix is None:
        raise MeasurementError(
            "not a known kind of text file", where=str(path), hint="Give .jsonl or .txt, each also as .gz."
        )
    content = _read_text(path)
    read = parse_jsonl if suffix == ".jsonl" else _plain_documents
    documents = tuple(read(content, where=str(path)))
    if not documents:
        raise MeasurementError("the file has no documents", where=str(path))
    name = re.sub(r"[^A-Za-z0-9._-]", "-", plain_name.removesuffix(suffix))
    return TextSet(name=name, documents=documents)


def overlap(one: TextSet, other: TextSet) -> tuple[Document, ...]:
    """Documents of `one` whose text is also a document of `other`."""
    texts = {document.text for document in other.documents}
    return tuple(document for document in one.documents if document.text in texts)


def _read_text(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opener(path, "rb") as stream:
            content: bytes = stream.read(MAX_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MeasurementError(f"cannot read the texts: {error}", where=str(path)) from error
    if len(content) > MAX_TEXT_BYTES:
        raise MeasurementError(
            f"the texts are over {MAX_TEXT_BYTES} bytes", where=str(path), hint="Take a sample of them."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MeasurementError("not UTF-8", where=f"{path}:{line}", hint="Convert the file to UTF-8.") from error


class _Record(msgspec.Struct):
    text: str
    id: str | int | None = None
    heading: str | None = None


def parse_jsonl(content: str, *, where: str) -> Iterator[Document]:
    """The documents of JSON lines; see `load_texts`. Raises: MeasurementError: names the line."""
    line_of_id: dict[str, int] = {}
    # Not splitlines(): it also breaks at U+2028 and others, which JSON allows inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            record = msgspec.json.decode(line, type=_Record)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise MeasurementError(
                f"not an object with a `text`: {error}", where=place, hint='Each line is {"text": "..."}.'
            ) from error
        if not record.text.strip():
            raise MeasurementError("the text is empty", where=place)
        document_id = f"line-{number}" if record.id is None else str(record.id)
        if document_id in line_of_id:
            raise MeasurementError(
                f"the id {document_id!r} occurs twice, first on line {line_of_id[document_id]}", where=place
            )
        line_of_id[document_id] = number
        yield Document(document_id=document_id, text=record.text, heading=record.heading)


def _plain_documents(content: str, *, where: str) -> Iterator[Document]:
    del where  # every UTF-8 text is acceptable; emptiness is the caller's finding
    normal = content.replace("\r\n", "\n")
    parts = normal.split(END_OF_TEXT) if END_OF_TEXT in normal else re.split(r"\n[ \t]*\n", normal)
    texts = [part.strip() for part in parts]
    for number, text in enumerate((text for text in texts if text), start=1):
        yield Document(document_id=f"document-{number}", text=text)
