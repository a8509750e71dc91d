"""Settings come from the environment, and an error names a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.contract.errors import ConfigurationError
from serving.settings import Settings, from_environment, variable


def test_without_variables_the_defaults_hold():
    """Local by default; empty counts as unset, and other programs' variables are ignored."""
    settings = from_environment({"PORT": "", "PATH": "/bin"})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_every_setting_is_read_from_its_variable():
    """It is converted to its type."""
    text = {
        "host": "::1",
        "model": "m.pt",
        "log_level": "debug",
        "log_format": "console",
        "device": "cuda:1",
        "api_key": "k",
        "shadow_share": "0.5",
        "feedback_photos": "True",
        "feedback_max_bytes": "2000000",
        "review_max_bytes": "2000000",
        "review_share": "0.5",
        "cors_origins": "https://app.example.org",
    }
    for field in Settings.__struct_fields__:
        given = text.get(field, "2000")
        if field in ("workers", "max_batch", "max_delay_ms", "max_parts"):
            given = "3"
        if field == "api_key_file":
            continue  # test_keys_come_from_a_file
        value = getattr(from_environment({"SERVING_API_KEY": "k", variable(field): given}), field)
        assert str(value) in (given, f"{given}.0")


LINKS = {
    "SERVING_SERVICE_HOST": "10.0.0.1",
    "SERVING_SERVICE_PORT": "8000",
    "SERVING_SERVICE_PORT_HTTP": "8000",
    "SERVING_PORT": "tcp://10.0.0.1:8000",
    "SERVING_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "SERVING_PORT_8000_TCP_PROTO": "tcp",
    "SERVING_PORT_8000_TCP_PORT": "8000",
    "SERVING_PORT_8000_TCP_ADDR": "10.0.0.1",
    "SERVING_CANARY_SERVICE_HOST": "fd00::1",
    "SERVING_CANARY_PORT": "udp://10.0.0.1:53",
}


def test_variables_of_kubernetes_services_are_no_settings():
    """A Service called serving, or serving-canary, sets them for every pod of its namespace."""
    assert from_environment(LINKS) == Settings()
    for name in ("SERVING_PORT", "SERVING_SERVICE_HOST", "SERVING_WORKER"):
        with pytest.raises(ConfigurationError, match=f"{name} is not a setting"):
            from_environment({name: "eight thousand"})


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PORT": "eighty"}, ["PORT='eighty'", "int"]),
        ({"PORT": "70000"}, ["PORT", "65535"]),
        ({"SERVING_WORKERS": "0"}, ["SERVING_WORKERS", ">= 1"]),
        ({"SERVING_DEADLINE_SECONDS": "-1"}, ["SERVING_DEADLINE_SECONDS", "> 0"]),
        ({"SERVING_LOG_LEVEL": "loud"}, ["SERVING_LOG_LEVEL", "loud"]),
        ({"SERVING_API_KEY": "with space"}, ["SERVING_API_KEY"]),
        ({"SERVING_API_KEY": ",,"}, ["SERVING_API_KEY has only commas"]),
        ({"SERVING_API_KEY": "k", "SERVING_API_KEY_FILE": "f"}, ["both set"]),
        ({"SERVING_API_KEY_FILE": "/no/such"}, ["SERVING_API_KEY_FILE=/no/such", "No such file"]),
        ({"SERVING_API_KEY_FILE": "/dev/null"}, ["holds no key", "one key per line"]),
        ({"SERVING_DEADLINE": "1"}, ["SERVING_DEADLINE ", "SERVING_DEADLINE_SECONDS"]),
        ({"SERVING_FEEDBACK": "f.db"}, ["SERVING_FEEDBACK needs SERVING_API_KEY"]),
        ({"SERVING_XYZ": "1"}, ["SERVING_XYZ", "Known:"]),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], words: list[str]):
    """The message contains the variable, the value and what is allowed."""
    with pytest.raises(ConfigurationError) as error:
        from_environment(environment)
    for word in words:
        assert word in error.value.detail


def test_keys_come_from_a_file_or_a_list(tmp_path: Path):
    """Several are valid at once, so that they can be turned over; one that could not be sent is refused."""
    path = tmp_path / "keys"
    path.write_text("new\n\nold\n")
    assert from_environment({"SERVING_API_KEY_FILE": str(path)}).api_keys == ("new", "old")
    assert from_environment({"SERVING_API_KEY": "new,,old"}).api_keys == ("new", "old")
    assert from_environment({}).api_keys == ()
    for text in ("cl\u00e9\n", "a,b\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="a key that is not of printable ASCII"):
            from_environment({"SERVING_API_KEY_FILE": str(path)})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="it is not text"):
        from_environment({"SERVING_API_KEY_FILE": str(path)})
