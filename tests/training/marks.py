"""Marks that several tests of training share."""

from __future__ import annotations

import pytest

LIBRARIES_WARNINGS_IGNORED = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:",
    "ignore:.*Checkpoint directory.*:",
    "ignore:.*does not have many workers.*:",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
"""Warnings from within Lightning and MLflow; the project's own still fail a test."""
