"""The production test set: photos drawn at random in production that people labelled, never trained on."""

from __future__ import annotations

from typing import Final

PRODUCTION: Final = "production"
"""Name of the split."""
