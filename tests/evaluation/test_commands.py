"""The commands as a person types them."""

from __future__ import annotations

from importlib import import_module

import pytest

from evaluation.__main__ import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_body(name: str, capsys: pytest.CaptureFixture[str]):
    """The help names the command; its module can be imported."""
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert f"python -m evaluation {name}" in capsys.readouterr().out
    assert callable(import_module(COMMANDS[name].module).main)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "live --url http://127.0.0.1:9 --labelled . --concurrency 0",
            "must be a whole number of at least 1, not '0'",
        ),
        (
            "live --url http://127.0.0.1:9 --labelled . --concurrency many",
            "must be a whole number of at least 1, not 'many'",
        ),
        ("live --url http://127.0.0.1:9", "one of the arguments --labelled --split is required"),
        (
            "live --url http://127.0.0.1:9 --labelled . --split production",
            "not allowed with argument --labelled",
        ),
        ("drift", "one of the arguments --url --file is required"),
        ("score photos answers.csv", "answers.csv must end in .parquet"),
    ],
)
def test_a_wrong_call_is_refused_with_its_cause(words: str, message: str, capsys: pytest.CaptureFixture[str]):
    """Exit 2, as with argparse."""
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert message in capsys.readouterr().err
