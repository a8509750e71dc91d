"""Structured logs on standard output: one JSON object per line, or coloured text for a person.

Records of structlog, of the standard library and of uvicorn, warnings and the errors of threads go in; lines
go to a `LineWriter`, so that a log that nobody takes neither delays nor fails nor changes an answer.
`serving.http.server` configures it once per process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from serving.telemetry.lines import LineWriter

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


class Log:
    """The log of a process: where structlog and the standard library write, and its end."""

    def __init__(self, writer: LineWriter) -> None:
        self.writer = writer

    def msg(self, text: str) -> None:
        """Queue one rendered record. structlog calls the method that is named like the level."""
        self.writer.put(text.encode("utf-8", "backslashreplace"))

    debug = info = warning = warn = error = err = exception = critical = fatal = failure = log = msg

    def close(self, timeout_seconds: float = 1.0) -> None:
        """Write the lines that wait, as far as they can be written in this time."""
        self.writer.close(timeout_seconds)


class _Handler(logging.Handler):
    """The records of the standard library."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; one that cannot be formatted becomes a line that says so."""
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 (logging never fails its caller)
            text = render({"event": "a record cannot be formatted", "logger": record.name, "error": error})
        self._log.msg(text)


def configure(level: str, style: str) -> Log:
    """Send the records of structlog and of the standard library, and the warnings, to standard output.

    Args:
        level: debug, info, warning or error.
        style: json or console.
    """
    _occupy_standard_descriptors()
    _append_to_a_file(_STDOUT)
    _unblock(_STDERR)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def renderer(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        return render(event) if style == "json" else str(console(logger, name, event))

    def notice(count: int) -> bytes:
        event = {"event": "log lines dropped", "lines": count, "level": "warning", "timestamp": _now()}
        return renderer(None, "warning", event).encode()

    log = Log(LineWriter(_STDOUT, notice))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: log,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(log)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_error
    sys.unraisablehook = _log_unraisable
    return log


def render(event: MutableMapping[str, Any]) -> str:
    """One JSON object on one line, whatever the values are; never raises."""
    try:
        compact = msgspec.json.encode(event, enc_hook=repr)
        return msgspec.json.format(compact, indent=0).decode()  # spaces: `grep '"outcome": "internal"'`
    except Exception:  # noqa: BLE001 (a lone surrogate, a huge integer: rare, and slower below)
        try:
            return json.dumps(event, default=repr)
        except Exception as error:  # noqa: BLE001 (logging never fails its caller)
            return json.dumps({"event": "a record cannot be rendered", "error": type(error).__name__})


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _log_thread_error(arguments: threading.ExceptHookArgs) -> None:
    trace = arguments.exc_value or arguments.exc_type()
    name = arguments.thread.name if arguments.thread else ""
    structlog.get_logger().error("a thread failed", thread=name, exc_info=trace)


def _log_unraisable(arguments: Any) -> None:
    structlog.get_logger().error(
        arguments.err_msg or "an exception was ignored",
        object=repr(arguments.object),
        exc_info=arguments.exc_value,
    )


def _occupy_standard_descriptors() -> None:
    """Open /dev/null where a standard descriptor is closed, or the log would go into the next socket."""
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


def _append_to_a_file(descriptor: int) -> None:
    """Let each line go to the end of a regular file, so that a rotation may truncate it (copytruncate)."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


def _unblock(descriptor: int) -> None:
    """Make writing to a pipe or terminal fail, not wait, when it is full.

    C libraries report corrupt images on standard error, from within a decoder. Opening the same pipe again
    gives a description of its own: those who share the old one, such as the shell, keep theirs as it is.
    A socket cannot be opened again; it stays as it is.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return
    with contextlib.suppress(OSError):
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.dup2(own, descriptor, inheritable=True)
        os.close(own)
