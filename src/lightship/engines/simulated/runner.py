"""The batch in real time: steps end when the cost model says so, and each token goes to the request that waits for it.

Steps are paced against absolute deadlines: a step that ended late does not move those after it. When this process
cannot keep up, tokens come late and then in bursts, so the lag is measured and said (`lag_s`, a log line), never hidden
in the answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightship.engines.simulated.batching import Batcher, BatchSequence
from lightship.engines.simulated.choices import Choice
from lightship.ports.clock import Clock
from lightship.ports.engine_profile import EngineProfile
from lightship.wire.errors import invalid_request, overloaded

logger = logging.getLogger(__name__)

# Seconds. Timers are a millisecond exact; beyond this a client could take the lag for the engine's own time.
LAG_WORTH_SAYING_S = 0.05
# Seconds between two log lines about it.
_SAY_AGAIN_AFTER_S = 10.0


class Mailbox:
    """Choices of one request that have something new; one reader."""

    __slots__ = ("_new", "_waiter")

    def __init__(self) -> None:
        self._new: list[Choice] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, choice: Choice) -> None:
        """Adds a choice and wakes the reader."""
        self._new.append(choice)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def take(self) -> list[Choice]:
        """The choices with news, at least one; a choice stands there once for each of its tokens."""
        if not self._new:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        new, self._new = self._new, []
        return new


class Runner:
    """Runs one batch until it is cancelled. All of it lives in one event loop; only `run` steps."""

    def __init__(self, profile: EngineProfile, *, clock: Clock) -> None:
        self._batcher = Batcher(profile)
        self._clock = clock
        self._live: dict[int, tuple[Choice, Mailbox]] = {}
        self._has_work = asyncio.Event()
        self._said_s = float("-inf")
        self.lag_s = 0.0
        self.max_lag_s = 0.0
        self.num_steps = 0
        self.num_preemptions = 0
        self.kv_usage = 0.0

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return self._batcher.num_running

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return self._batcher.num_waiting

    @contextmanager
    def open(self, choices: Sequence[Choice]) -> Iterator[Mailbox]:
        """A mailbox that gets the tokens of these choices; leaving the block cancels what is unfinished.

        Raises: ApiError: 503 when the queue is full, 400 when the request alone is over its limit.
        """
        self.check_room(len(choices))
        mailbox = Mailbox()
        try:
            for choice in choices:
                self._live[choice.sequence.sequence_id] = (choice, mailbox)
                self._batcher.submit(choice.sequence)
            self._has_work.set()
            yield mailbox
        finally:
            for choice in choices:
                if self._live.pop(choice.sequence.sequence_id, None) is not None:
                    self._batcher.cancel(choice.sequence)

    def check_room(self, num_sequences: int) -> None:
        """Returns when so many sequences can be taken now.

        Raises: ApiError: as `open`.
        """
        limits = self._batcher.limits
        most = limits.max_sequences + limits.max_waiting_requests
        if num_sequences > most:
            raise invalid_request(
                f"The request asks for {num_sequences} sequences; this server takes {most} at a time."
            )
        if not self._batcher.has_room(num_sequences):
            raise overloaded("The queue of this engine is full. Try again later.", reason="queue-full")

    async def run(self) -> None:
        """Steps until cancelled."""
        ends_s = self._clock.monotonic_s()
        while True:
            planned = self._batcher.plan_step()
            if planned is None:
                self.lag_s = self.kv_usage = 0.0
                self._has_work.clear()
                await self._has_work.wait()
                ends_s = self._clock.monotonic_s()
                continue
            ends_s += planned.duration_s
            # also when it is late: the streams must get their turn between two steps
            await self._clock.sleep(max(0.0, ends_s - self._clock.monotonic_s()))
            self._deliver()
            self._watch_lag(ends_s)

    def _deliver(self) -> None:
        outcome = self._batcher.complete_step()
        self.num_steps += 1
        self.kv_usage = self._batcher.cache.usage
        finished = set(outcome.finished)
        for sequence in outcome.emitting:
            live = self._live.get(sequence.sequence_id)
            if live is None:
                continue
            choice, mailbox = live
            is_last = sequence in finished
            is_stopped = choice.advance(is_last=is_last)
            if is_stopped and not is_last:
                self._batcher.cancel(sequence)
            if is_last or is_stopped:
                self._forget(sequence)
            mailbox.put(choice)

    def _forget(self, sequence: BatchSequence) -> None:
        del self._live[sequence.sequence_id]
        self.num_preemptions += sequence.num_preemptions

    def _watch_lag(self, ends_s: float) -> None:
        now_s = self._clock.monotonic_s()
        self.lag_s = max(0.0, now_s - ends_s)
        self.max_lag_s = max(self.max_lag_s, self.lag_s)
        if self.lag_s > LAG_WORTH_SAYING_S and now_s - self._said_s > _SAY_AGAIN_AFTER_S:
            self._said_s = now_s
            logger.warning(
                "the simulation is %.0f ms late with %d sequences: this process cannot keep up, so what clients see is "
                "slower than the profile says",
                self.lag_s * 1000,
                self._batcher.num_running,
            )
