"""The one exception of the offline side: a message for a person, ready to print."""

from __future__ import annotations


class PipelineError(Exception):
    """Something the user can mend: the text names the cause and the next step."""
