"""The base of every error that a person can act on."""

from __future__ import annotations


class UserError(Exception):
    """The text names the cause and the next step; a command prints it and ends with status 2."""


class PipelineError(UserError):
    """A stage of the pipeline, or a study beside it, cannot be done."""
