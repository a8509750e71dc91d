"""The base classes of all errors that a person can act on."""

from __future__ import annotations


class UserError(Exception):
    """Its text names the cause and the next step; a command prints it and exits with status 2."""


class PipelineError(UserError):
    """A stage of the pipeline, or a study alongside it, cannot run."""
