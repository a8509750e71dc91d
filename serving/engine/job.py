"""One request in the engine, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from serving.contract.answer import Answer, Refusal
from serving.contract.artifact import Artifact
from serving.contract.errors import ImageError
from serving.contract.preprocess import DecodedImage


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one computed request."""

    decoded: DecodedImage | ImageError
    """Its pixels, or the error that replaces them."""
    answer: Answer | Refusal
    artifact: Artifact
    """The model that answered; after a reload, not necessarily the current one."""
    seconds: dict[str, float]
    """Duration by stage: queue, decode and, unless the photo was refused, infer; the last two are those of
    the whole batch."""
    quantities: Mapping[str, float]
    """Measurements of the photo and its answer, made by the worker: the event loop has no time for them."""


@dataclass(slots=True, eq=False)
class Job:
    """One request that waits for a worker, or is computed by one."""

    body: bytes
    """The encoded image."""
    deadline: float
    """By the engine's clock."""
    queued_at: float
    future: asyncio.Future[Any]
    compute: Callable[[Job, float], Any] | None = None
    """What to do instead of a prediction, given the job and when it was started."""
    seconds: float = 0.0
    """Upper bound of what it takes on one core, if it is known."""
    memory_bytes: int = 0
    """Upper bound of what it takes, if it is known."""
    began: dict[str, float] = field(default_factory=dict)
    """When each stage after the queue began, in their order."""
    ended: float | None = None
    """When the last stage ended."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


FOLLOWED: Final[ContextVar[list[Job] | None]] = ContextVar("followed", default=None)
"""Where the engine puts the jobs of the present request, if somebody follows them (`serving.http.traces`)."""
