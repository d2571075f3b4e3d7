"""Where the line about each request goes: standard error, a file, or nowhere."""

from __future__ import annotations

import asyncio
import logging
import sys
from logging.handlers import WatchedFileHandler

from lightship.errors import UsageError
from lightship.gateway.server_config import AccessLogConfig

ACCESS_LOGGER = "lightship.gateway.access"
# Lines are written together: one write for each would take a good part of the time of a short request.
_WRITE_EVERY_S = 0.1
_MOST_LINES = 500


class JoinedLines(logging.Handler):
    """Passes lines on to another handler, those of a tenth of a second as one.

    Outside an event loop, and at its own end, it passes them on at once.
    """

    def __init__(self, inner: logging.Handler) -> None:
        super().__init__()
        self._inner = inner
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Effects: takes a line."""
        self._lines.append(record.getMessage())
        if self._timer is None and len(self._lines) < _MOST_LINES:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._timer = loop.call_later(_WRITE_EVERY_S, self.flush)
        elif len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Effects: writes what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        stream = getattr(self._inner, "stream", None)
        if lines and not (stream is not None and stream.closed):  # closed: at the very end of a process
            self._inner.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))

    def close(self) -> None:
        """Effects: writes what waits and closes the other handler."""
        self.flush()
        self._inner.close()
        super().close()


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
    handlers = [JoinedLines(handler) for handler in handlers]
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
    logger.propagate = not handlers
    logger.setLevel(logging.INFO if config.is_enabled else logging.CRITICAL + 1)
