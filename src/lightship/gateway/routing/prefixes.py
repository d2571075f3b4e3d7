"""Which replica has seen the beginning of a prompt: an approximate picture of the engines' prefix caches.

A prompt is cut into blocks of bytes as the client wrote them, without a tokenizer. Each block's key covers everything
before it, and the model, the tools and the tenant as well:

    h_0 = H(secret; model, tenant, tools)      h_i = H(h_{i-1}, block_i)

A conversation that grows by a turn begins with the same bytes as before, so it has the same keys up to the turn. The
block that holds the end of the old prompt is whole in none of the two and is not matched.

The tenant is part of h_0 unless the configuration shares prefixes: otherwise a tenant could guess another's prompts and
see by the time to first token whether the gateway led it to a replica that knew them. The secret keeps outsiders from
making keys collide.

Why not an exact picture: it needs the engines' cache events, which not all have; what is wrong here costs one prefill.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from lightship.wire.paths import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES

PrefixKey = bytes
_KEY_BYTES = 8
# Lost replicas whose bits may be left in the index: more make the numbers long.
_MOST_LOST = 32


class _PromptFields(msgspec.Struct, frozen=True):
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


# Skips all other values without building them; nothing of the fields is decoded either. Microseconds for 10 KB.
_decoder = msgspec.json.Decoder(_PromptFields)


def prompt_of(body: bytes, path: str) -> tuple[bytes, bytes]:
    """(what precedes the prompt where a template renders it, the prompt), both as the client wrote them.

    Both are empty for paths whose prompts have no prefix worth finding. `body` is known to be a JSON object.
    """
    if path not in _PATHS_WITH_PREFIX:
        return b"", b""
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b"", b""  # the engine says what is wrong with it
    if path == CHAT_COMPLETIONS:
        return bytes(fields.tools), bytes(fields.messages)
    if path == COMPLETIONS:
        return b"", bytes(fields.prompt)
    return bytes(fields.tools) + bytes(fields.instructions), bytes(fields.input)


_PATHS_WITH_PREFIX = frozenset({CHAT_COMPLETIONS, COMPLETIONS, RESPONSES})


class PrefixIndex:
    """Which replicas were given which prefixes lately.

    Args:
        capacity: Blocks remembered; the least recently given ones go first, a prompt's later blocks before its first.
        block_bytes: Length of a block.
        max_blocks: Blocks of a prompt that are looked at.
        secret: At most 64 random bytes.

    Concurrency: one event loop.
    """

    def __init__(self, *, capacity: int, block_bytes: int, max_blocks: int, secret: bytes) -> None:
        self._capacity = capacity
        self._block_bytes = block_bytes
        self._max_blocks = max_blocks
        self._secret = secret
        # A set of replicas is a number with a bit for each: half the memory of a set, and one operation to intersect.
        self._replicas: OrderedDict[PrefixKey, int] = OrderedDict()
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._present = 0
        self._lost = 0

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Capacity, length of a block, blocks per prompt."""
        return self._capacity, self._block_bytes, self._max_blocks

    @property
    def block_bytes(self) -> int:
        """Length of a block."""
        return self._block_bytes

    def keys_of(self, prompt: bytes, *, model: str, tenant: str = "", tools: bytes = b"") -> list[PrefixKey]:
        """The keys of a prompt's whole blocks, from its beginning."""
        size = self._block_bytes
        end = min(len(prompt) // size, self._max_blocks) * size
        if not end:
            return []
        # A length before each part, so that no two different triples are the same bytes.
        start = b"%d:%s%d:%s%d:" % (len(model), model.encode(), len(tenant), tenant.encode(), len(tools))
        digest = blake2b(start, key=self._secret, digest_size=_KEY_BYTES)
        digest.update(tools)
        keys = []
        for position in range(0, end, size):
            digest.update(prompt[position : position + size])
            keys.append(digest.digest())
        return keys

    def known_blocks(self, keys: Sequence[PrefixKey]) -> dict[str, int]:
        """How many blocks from the beginning each replica knows; one that knows none is left out."""
        known: dict[str, int] = {}
        holders = self._present
        num_blocks = 0
        for key in keys:
            still = self._replicas.get(key, 0) & holders
            if still != holders and num_blocks:
                self._note(known, holders & ~still, num_blocks)
            holders = still
            if not still:
                return known
            num_blocks += 1
        if num_blocks:
            self._note(known, holders, num_blocks)
        return known

    def remember(self, keys: Sequence[PrefixKey], replica: str) -> None:
        """Effects: the replica knows these blocks from now on."""
        bit, replicas, present = self._bit_of(replica), self._replicas, self._present
        for key in reversed(keys):
            replicas[key] = (replicas.get(key, 0) & present) | bit
            replicas.move_to_end(key)
        for _ in range(len(replicas) - self._capacity):
            replicas.popitem(last=False)

    def forget(self, replica: str) -> None:
        """Effects: the replica knows nothing any more.

        Its bit is only masked: to take it out of a full index takes as long as a hundred requests, so that is done for
        many lost replicas at a time.
        """
        bit = self._bits.pop(replica, 0)
        self._present &= ~bit
        self._lost |= bit
        if self._lost.bit_count() >= _MOST_LOST:
            self._sweep()

    def _sweep(self) -> None:
        present, replicas = self._present, self._replicas
        for key in [key for key, holders in replicas.items() if not holders & present]:
            del replicas[key]
        for key, holders in replicas.items():
            replicas[key] = holders & present
        self._lost = 0

    def _bit_of(self, replica: str) -> int:
        bit = self._bits.get(replica)
        if bit is None:
            used = self._present | self._lost
            bit = self._bits[replica] = ~used & (used + 1)  # the lowest that is free
            self._present |= bit
            self._names[bit] = replica
        return bit

    def _note(self, known: dict[str, int], holders: int, num_blocks: int) -> None:
        while holders:
            lowest = holders & -holders
            known[self._names[lowest]] = num_blocks
            holders ^= lowest
