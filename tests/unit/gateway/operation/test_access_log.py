from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightship.errors import UsageError
from lightship.gateway.operation.access_log import ACCESS_LOGGER, configure_access_log
from lightship.gateway.server_config import AccessLogConfig
from lightship.testing.virtual_time import run_in_virtual_time

LINE = json.dumps({"request_id": "r"})


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    configure_access_log(AccessLogConfig(is_enabled=False))  # without handlers, as before
    logging.getLogger(ACCESS_LOGGER).setLevel(logging.NOTSET)


def test_access_log_to_a_file_is_bare_lines_and_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure_access_log(AccessLogConfig(file=str(tmp_path / "access.log")))
    logging.getLogger(ACCESS_LOGGER).info("%s", LINE)
    assert (tmp_path / "access.log").read_text() == LINE + "\n"
    assert caplog.messages == []


def test_access_log_file_moved_away_by_a_rotation_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    configure_access_log(AccessLogConfig(file=str(file)))
    for moved in ("access.log.1", None):
        logging.getLogger(ACCESS_LOGGER).info("%s", LINE)
        if moved:
            file.rename(tmp_path / moved)
    assert file.read_text() == (tmp_path / "access.log.1").read_text() == LINE + "\n"


def test_access_log_off_is_not_even_made(caplog: pytest.LogCaptureFixture) -> None:
    configure_access_log(AccessLogConfig(is_enabled=False))
    assert not logging.getLogger(ACCESS_LOGGER).isEnabledFor(logging.INFO)
    logging.getLogger(ACCESS_LOGGER).info("%s", LINE)
    assert caplog.messages == []


def test_access_log_file_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    configure_access_log(AccessLogConfig(file=str(file)))
    with pytest.raises(UsageError, match="the access log cannot be written: No such file or directory"):
        configure_access_log(AccessLogConfig(file=str(tmp_path / "nowhere" / "access.log")))
    logging.getLogger(ACCESS_LOGGER).info("%s", LINE)
    assert file.read_text() == LINE + "\n"


def test_access_log_lines_of_a_moment_are_one_write_and_none_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    configure_access_log(AccessLogConfig(file=str(file)))

    async def main() -> None:
        for number in range(3):
            logging.getLogger(ACCESS_LOGGER).info("%s", number)
        assert file.read_text() == ""
        await asyncio.sleep(0.2)  # of virtual time
        assert file.read_text() == "0\n1\n2\n"
        logging.getLogger(ACCESS_LOGGER).info("last")
        configure_access_log(AccessLogConfig())  # as at a reload, or the end of the process

    run_in_virtual_time(main())
    assert file.read_text() == "0\n1\n2\nlast\n"
