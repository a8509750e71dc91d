"""What can go wrong in a deploy, and the exit status that says so."""

from __future__ import annotations


class DeployError(Exception):
    """Base of them all; the text names the cause and the next step."""

    status = 1
    word = "error"


class RefusedError(DeployError):
    """A check failed; what served before serves on."""

    word = "refused"


class WrongCallError(DeployError):
    """Nothing was tried; the text says what to do instead."""

    status = 2


class LockedError(DeployError):
    """Another deploy is at work."""

    status = 3
