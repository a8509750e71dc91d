"""The service's state: starting, ready, draining or failed. Only `Lifecycle` changes it."""

from __future__ import annotations

import threading
from enum import StrEnum


class State(StrEnum):
    """The states of the service."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


_ALLOWED = {
    State.STARTING: {State.READY, State.FAILED, State.DRAINING},
    State.READY: {State.DRAINING, State.FAILED},
    State.DRAINING: set[State](),
    State.FAILED: {State.DRAINING},
}


class Lifecycle:
    """Hold the state and the reason for it; it can only move forward."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._reason = "the model is being loaded and verified"
        self._failed = False

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def reason(self) -> str:
        """Why the service is not ready, for a person; empty if it is."""
        return self._reason

    @property
    def failed(self) -> bool:
        """Whether the service has ever failed, whatever its state is now."""
        return self._failed

    def move(self, state: State, reason: str = "") -> bool:
        """Move to `state` if that is a step forward; return whether it happened."""
        with self._lock:
            if state not in _ALLOWED[self._state]:
                return False
            self._state, self._reason = state, reason
            self._failed |= state is State.FAILED
            return True
