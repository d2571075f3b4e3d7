"""The simulated KV cache: every block in exactly one state, whatever happens."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lightship.engines.simulated.kv_cache import KvCache


def assert_conserved(cache: KvCache) -> None:
    """All blocks are there, none twice, none below zero."""
    counts = (cache.num_free, cache.num_private, cache.num_shared, cache.num_idle)
    assert min(counts) >= 0
    assert sum(counts) == cache.num_blocks


def test_cache_take_more_than_there_is_changes_nothing() -> None:
    cache = KvCache(4)
    assert cache.take(3)
    assert not cache.take(2)
    assert (cache.num_free, cache.num_private) == (1, 3)


def test_cache_published_block_is_found_while_used_and_after() -> None:
    cache = KvCache(4)
    cache.take(2)
    assert cache.publish(11)
    assert cache.count_matches([11, 12]) == (1, 0)
    cache.release([11], num_private=1)
    assert cache.count_matches([11, 12]) == (1, 1)
    assert (cache.num_free, cache.num_idle) == (3, 1)


def test_cache_content_that_is_there_already_is_not_published_twice() -> None:
    cache = KvCache(4)
    cache.take(2)
    assert cache.publish(11)
    assert not cache.publish(11)
    assert cache.num_private == 1


def test_cache_evicts_the_least_recently_used_and_of_one_sequence_its_tail() -> None:
    cache = KvCache(4)
    cache.take(4)
    for block_hash in (1, 2, 3, 4):
        cache.publish(block_hash)
    cache.release([1, 2], num_private=0)
    cache.release([3, 4], num_private=0)
    cache.share([1])  # used again: now the youngest of all
    cache.release([1], num_private=0)
    evicted = []
    for _ in range(4):
        before = [block_hash for block_hash in (1, 2, 3, 4) if cache.count_matches([block_hash])[0]]
        cache.take(1)
        after = [block_hash for block_hash in before if cache.count_matches([block_hash])[0]]
        evicted += [block_hash for block_hash in before if block_hash not in after]
    assert evicted == [2, 4, 3, 1]


def test_cache_block_in_use_is_never_evicted() -> None:
    cache = KvCache(2)
    cache.take(1)
    cache.publish(7)
    cache.share([7])
    cache.release([7], num_private=0)  # one of two users leaves
    assert not cache.take(2)
    assert cache.count_matches([7]) == (1, 0)


def test_cache_without_prefixes_keeps_nothing() -> None:
    cache = KvCache(2, has_prefix_cache=False)
    cache.take(1)
    assert not cache.publish(7)
    cache.release([], num_private=1)
    assert cache.num_free == 2


class CacheMachine(RuleBasedStateMachine):
    """Sequences of random content come, publish and go; the cache must add up after each step."""

    @initialize(num_blocks=st.integers(1, 12), has_prefix_cache=st.booleans())
    def start(self, num_blocks: int, has_prefix_cache: bool) -> None:
        self.cache = KvCache(num_blocks, has_prefix_cache=has_prefix_cache)
        self.held: list[tuple[list[int], int]] = []

    @rule(content=st.integers(0, 2), num_blocks=st.integers(1, 6))
    def come(self, content: int, num_blocks: int) -> None:
        hashes = [content * 100 + position for position in range(num_blocks)]
        num_matches, num_idle = self.cache.count_matches(hashes)
        num_needed = num_blocks - num_matches
        has_room = num_needed <= self.cache.num_available - num_idle
        if not has_room:
            return
        self.cache.share(hashes[:num_matches])
        assert self.cache.take(num_needed)
        shared, num_private = hashes[:num_matches], num_needed
        for block_hash in hashes[num_matches:]:
            if self.cache.publish(block_hash):
                shared.append(block_hash)
                num_private -= 1
        self.held.append((shared, num_private))

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        shared, num_private = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.cache.release(shared, num_private=num_private)

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "cache"):
            assert_conserved(self.cache)
            assert self.cache.num_private == sum(num_private for _, num_private in self.held)
            assert self.cache.num_shared == len({block for shared, _ in self.held for block in shared})


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
