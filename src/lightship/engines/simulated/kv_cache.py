"""The KV cache of the simulated engine: counted blocks, shared by content, the least recently used evicted first. Pure.

Every block is in exactly one state:

    free --take--> private --publish--> shared (>= 1 sequence) --last release--> idle --evicted by take--> private
      ^--release--'                       ^---------match--------------------------'

Only full blocks with known content are ever shared. Content is named by a hash that covers all tokens before it too,
so that equal hashes mean equal prefixes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KvCache:
    """Counts the blocks of one cache.

    Args:
        num_blocks: All there are.
        has_prefix_cache: Whether released blocks keep their content; without it every block goes back to free.
    """

    def __init__(self, num_blocks: int, *, has_prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self.num_private = 0
        self._has_prefix_cache = has_prefix_cache
        self._num_users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that `take` could give now."""
        return self.num_free + len(self._idle)

    @property
    def num_shared(self) -> int:
        """Blocks with known content that sequences use now."""
        return len(self._num_users)

    @property
    def num_idle(self) -> int:
        """Blocks with known content that nobody uses."""
        return len(self._idle)

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences use."""
        return 1 - self.num_available / self.num_blocks

    def count_matches(self, hashes: Sequence[int]) -> tuple[int, int]:
        """(leading blocks that are here, how many of those are idle); changes nothing."""
        num_matches = num_idle = 0
        for block_hash in hashes:
            if block_hash in self._idle:
                num_idle += 1
            elif block_hash not in self._num_users:
                break
            num_matches += 1
        return num_matches, num_idle

    def share(self, hashes: Sequence[int]) -> None:
        """Adds a user to blocks that are here."""
        for block_hash in hashes:
            self._idle.pop(block_hash, None)
            self._num_users[block_hash] = self._num_users.get(block_hash, 0) + 1

    def take(self, num_blocks: int) -> bool:
        """Whether that many private blocks were taken; all of them or none. Evicts idle ones when none is free."""
        if num_blocks > self.num_available:
            return False
        for _ in range(num_blocks - self.num_free):
            self._idle.popitem(last=False)
            self.num_free += 1
        self.num_free -= num_blocks
        self.num_private += num_blocks
        return True

    def publish(self, block_hash: int) -> bool:
        """Whether a private block became a shared one; not when its content is here already, or nothing is shared."""
        if not self._has_prefix_cache or block_hash in self._num_users or block_hash in self._idle:
            return False
        self.num_private -= 1
        self._num_users[block_hash] = 1
        return True

    def release(self, shared: Sequence[int], *, num_private: int) -> None:
        """Gives back what one sequence held; its last shared block is the first to be evicted later."""
        self.num_private -= num_private
        self.num_free += num_private
        for block_hash in reversed(shared):
            self._num_users[block_hash] -= 1
            if not self._num_users[block_hash]:
                del self._num_users[block_hash]
                self._idle[block_hash] = None
