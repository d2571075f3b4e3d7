"""Document scores as bytes and back, so that a later run compares with a reference that is no longer running.

Zlib over msgpack; arrays are little-endian. The quick protocol takes 2-3 MB, nearly all of it the top-k tables.
"""

from __future__ import annotations

import zlib
from typing import Literal

import msgspec
import numpy as np

from lightship.errors import MeasurementError
from lightship.evaluation.quality.scoring import DocumentScore, DocumentScores

MAX_PLAIN_BYTES = 256 * 2**20  # about 500 documents of 1,024 tokens with 64 alternatives each
_FORMAT = "lightship-document-scores/1"


class _Arrays(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    id_type: Literal["<u2", "<u4"]
    width: int
    token_ids: bytes
    token_nats: bytes
    top_ids: bytes
    top_logprobs: bytes


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    document_id: str
    num_bytes: int
    num_chars: int
    is_cut: bool
    text_digest: str
    arrays: _Arrays


class _Scores(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    text_label: str
    window_tokens: int
    top_k: int
    documents: list[_Document]


def encode_scores(scores: DocumentScores, *, max_plain_bytes: int = MAX_PLAIN_BYTES) -> bytes:
    """The scores as bytes; `decode_scores` gives back equal ones.

    Raises: MeasurementError: they are over the size limit before compression.
    """
    record = _Scores(
        format=_FORMAT,
        text_label=scores.text_label,
        window_tokens=scores.window_tokens,
        top_k=scores.top_k,
        documents=[_packed(document) for document in scores.documents],
    )
    plain = msgspec.msgpack.encode(record)
    if len(plain) > max_plain_bytes:
        raise MeasurementError(
            f"the scores take {len(plain)} bytes, over the limit of {max_plain_bytes}",
            hint="Score fewer documents, or keep fewer alternatives (top_k).",
        )
    return zlib.compress(plain, level=3)


def decode_scores(content: bytes, *, max_plain_bytes: int = MAX_PLAIN_BYTES) -> DocumentScores:
    """The scores `encode_scores` was given.

    Raises: MeasurementError: damaged, of another format, or over the size limit when unpacked.
    """
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(content, max_plain_bytes)
        if not unpacker.eof:
            raise MeasurementError(f"the stored scores are cut off, or over {max_plain_bytes} bytes")
        record = msgspec.msgpack.decode(plain, type=_Scores)
        if record.format != _FORMAT:
            raise MeasurementError(f"the stored scores have format {record.format!r}, expected {_FORMAT!r}")
        documents = tuple(_unpacked(document) for document in record.documents)
    except (zlib.error, msgspec.DecodeError, ValueError) as error:
        raise MeasurementError(
            f"the stored scores are damaged: {error}", hint="Delete them and measure the reference again."
        ) from error
    return DocumentScores(
        text_label=record.text_label, window_tokens=record.window_tokens, top_k=record.top_k, documents=documents
    )


def _packed(document: DocumentScore) -> _Document:
    largest_id = max(int(document.token_ids.max()), int(document.top_ids.max(initial=0)))
    id_type: Literal["<u2", "<u4"] = "<u2" if largest_id < 2**16 else "<u4"
    return _Document(
        document_id=document.document_id,
        num_bytes=document.num_bytes,
        num_chars=document.num_chars,
        is_cut=document.is_cut,
        text_digest=document.text_digest,
        arrays=_Arrays(
            id_type=id_type,
            width=document.top_ids.shape[1],
            token_ids=document.token_ids.astype(id_type).tobytes(),
            token_nats=document.token_nats.astype("<f8").tobytes(),
            top_ids=document.top_ids.astype(id_type).tobytes(),
            top_logprobs=document.top_logprobs.astype("<f4").tobytes(),
        ),
    )


def _unpacked(document: _Document) -> DocumentScore:
    arrays = document.arrays
    token_nats = np.frombuffer(arrays.token_nats, dtype="<f8").astype(np.float64)
    shape = (len(token_nats), arrays.width)
    unpacked = DocumentScore(
        document_id=document.document_id,
        num_bytes=document.num_bytes,
        num_chars=document.num_chars,
        is_cut=document.is_cut,
        text_digest=document.text_digest,
        token_ids=np.frombuffer(arrays.token_ids, dtype=arrays.id_type).astype(np.uint32),
        token_nats=token_nats,
        top_ids=np.frombuffer(arrays.top_ids, dtype=arrays.id_type).reshape(shape).astype(np.uint32),
        top_logprobs=np.frombuffer(arrays.top_logprobs, dtype="<f4").reshape(shape).astype(np.float32),
    )
    if len(unpacked.token_ids) != len(token_nats) + 1 or not len(token_nats):
        raise ValueError(f"document {document.document_id!r} has {len(unpacked.token_ids)} token ids")
    if not (np.isfinite(token_nats).all() and np.isfinite(unpacked.top_logprobs).all()):
        raise ValueError(f"document {document.document_id!r} has numbers that are not finite")
    return unpacked
