"""Structured logs on standard output: one JSON object per line, or coloured text for a person."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
import threading
from typing import Any, TextIO, cast

import structlog

from serving.telemetry.lines import Lines

_lines: list[Lines] = []


def configure(level: str, style: str) -> None:
    """Send the records of structlog and of the standard library to one output.

    Args:
        level: debug, info, warning or error.
        style: json or console.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer()
    )
    out = Lines(os.dup(sys.stdout.fileno()), _describe_dropped)
    _lines.append(out)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(cast("TextIO", out))
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _pump_errors()


def dropped() -> int:
    """Lines since the start that nobody took."""
    return sum(lines.dropped for lines in _lines)


def flush(seconds: float) -> None:
    """Write what is waiting, as far as it is taken within this time."""
    for lines in _lines:
        lines.drain(seconds)


def _describe_dropped(count: int) -> str:
    now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    return (
        json.dumps({"count": count, "event": "log lines dropped", "level": "warning", "timestamp": now})
        + "\n"
    )


def _pump_errors() -> None:
    """Put a pipe, and a thread that always reads it, before standard error.

    C libraries write there about bytes that they cannot decode. Where nobody reads it, such a write would
    hold a worker for ever.
    """
    errors = Lines(os.dup(2), lambda count: f"{count} lines dropped\n")
    _lines.append(errors)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def pump() -> None:
        while data := os.read(reading, 65536):
            errors.write(data.decode("utf-8", "backslashreplace"))

    threading.Thread(target=pump, name="errors", daemon=True).start()
