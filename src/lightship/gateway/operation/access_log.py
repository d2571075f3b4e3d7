"""Where the line about each request goes: standard error, a file, or nowhere."""

from __future__ import annotations

import logging
import sys
from logging.handlers import WatchedFileHandler

from lightship.errors import UsageError
from lightship.gateway.server_config import AccessLogConfig

ACCESS_LOGGER = "lightship.gateway.access"


def configure_access_log(config: AccessLogConfig) -> None:
    """Effects: changes the access logger of this process; a file it wrote before is closed.

    The lines are bare JSON. A file may be moved away by a log rotation at any time, and may be shared by processes: a
    line is one write at its end.

    Raises: UsageError: the file cannot be written; nothing was changed.
    """
    logger = logging.getLogger(ACCESS_LOGGER)
    handlers: list[logging.Handler] = []
    if config.is_enabled and not config.file:
        handlers = [logging.StreamHandler(sys.stderr)]
    if config.is_enabled and config.file:
        try:
            handlers = [WatchedFileHandler(config.file, encoding="utf-8")]
        except OSError as error:
            hint = "Name a file that this user may write in gateway.access_log.file."
            what = f"the access log cannot be written: {error.strerror}"
            raise UsageError(what, where=config.file, hint=hint) from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
    logger.propagate = not handlers
    logger.setLevel(logging.INFO if config.is_enabled else logging.CRITICAL + 1)
