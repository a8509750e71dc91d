"""The load generators."""

from __future__ import annotations

import pytest

from bench import load


@pytest.mark.parametrize("missing", ["wrk", "h2load"])
def test_a_generator_that_is_not_installed_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, missing: str
):
    """With how to install it: a quarter of an hour of measurements would be lost."""
    monkeypatch.setattr(load.shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(load.LoadError, match=f"^{missing} is not installed. Install it: apt-get install wrk"):
        load.require_generators()
