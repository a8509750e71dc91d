"""The errors of a deploy, each with its exit status."""

from __future__ import annotations


class DeployError(Exception):
    """Base of all; the message names the cause and the next step."""

    status = 1
    word = "error"


class RefusedError(DeployError):
    """A check failed; the release that served before keeps serving."""

    word = "refused"


class WrongCallError(DeployError):
    """Nothing was attempted; the message says what to do instead."""

    status = 2


class LockedError(DeployError):
    """Another deploy is running."""

    status = 3
