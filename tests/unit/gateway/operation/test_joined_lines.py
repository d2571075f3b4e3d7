from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator

import pytest

from lightship.gateway.operation.access_log import JoinedLines
from lightship.testing.virtual_time import run_in_virtual_time


class RecordingStream(io.StringIO):
    """Remembers each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def stream() -> RecordingStream:
    return RecordingStream()


@pytest.fixture
def logger(stream: RecordingStream) -> Iterator[logging.Logger]:
    logger = logging.Logger("access")
    handler = JoinedLines(logging.StreamHandler(stream))
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_joined_lines_of_a_tenth_of_a_second_are_one_write(logger: logging.Logger, stream: RecordingStream) -> None:
    async def main() -> None:
        for line in ("a", "b"):
            logger.info("%s", line)
        assert stream.writes == []
        await asyncio.sleep(0.11)
        assert stream.writes == ["a\nb\n"]
        logger.info("c")
        await asyncio.sleep(0.11)
        assert stream.writes == ["a\nb\n", "c\n"]

    run_in_virtual_time(main())


def test_joined_lines_that_become_many_do_not_wait(logger: logging.Logger, stream: RecordingStream) -> None:
    async def main() -> None:
        for number in range(500):
            logger.info("%d", number)
        assert [len(text.split()) for text in stream.writes] == [500]

    run_in_virtual_time(main())


def test_joined_lines_outside_an_event_loop_and_at_the_end_are_written_at_once(
    logger: logging.Logger, stream: RecordingStream
) -> None:
    logger.info("a")
    assert stream.writes == ["a\n"]

    async def main() -> None:
        logger.info("b")
        logger.handlers[0].close()

    run_in_virtual_time(main())
    assert stream.writes == ["a\n", "b\n"]
