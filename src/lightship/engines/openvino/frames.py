"""What the two processes of a worker say to each other: msgpack records with a four-byte length, over one socket."""

from __future__ import annotations

from typing import Literal

import msgspec

FieldValue = bool | int | float
Finish = Literal["", "stop", "length"]


class Add(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Generate after these tokens; `fields` are attributes of GenAI's GenerationConfig."""

    sequence_id: int
    token_ids: list[int]
    fields: dict[str, FieldValue]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Stop generating; nothing more is said about this sequence after it is handled."""

    sequence_id: int


class Output(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one sequence; `logprobs` is empty unless asked for."""

    sequence_id: int
    token_ids: list[int]
    logprobs: list[float]
    finish: Finish


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The model is there and has taken its first step."""

    kv_cache_bytes: int
    load_s: float


class Stepped(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """One scheduling step happened. `kv_usage` is a share of 1."""

    outputs: list[Output]
    num_scheduled: int
    kv_usage: float


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """One sequence ended without a result; the others go on. `is_capacity` says that memory ran out."""

    sequence_id: int
    message: str
    is_capacity: bool


class Broken(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The model failed; the process ends after this."""

    message: str


Command = Add | Cancel
Event = Loaded | Stepped | Refused | Broken

_ENCODER = msgspec.msgpack.Encoder()
LENGTH_BYTES = 4


def encode_frame(record: Command | Event) -> bytes:
    """One record with its length in front."""
    payload = _ENCODER.encode(record)
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


class FrameSplitter:
    """Puts payloads together again, whatever the borders of the received pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> list[bytes]:
        """Payloads that are complete now."""
        self._buffer += received
        payloads = []
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            begin = start + LENGTH_BYTES
            end = begin + int.from_bytes(self._buffer[start:begin], "big")
            if end > len(self._buffer):
                break
            payloads.append(bytes(self._buffer[begin:end]))
            start = end
        del self._buffer[:start]
        return payloads
