"""The settings of a release: kept with it, taken over, shown, and never lost without a word."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.deploy.conftest import Host

KEY = "SERVING_API_KEY=s3cret\n"


def variables(host: Host) -> dict[str, str]:
    """Return the variables of the active container."""
    found = host.engine.containers[host.state["active"]["container"]].variables
    return {name: value for name, value in found.items() if name != "DEPLOYMENT"}


def with_settings(host: Host, image: str, text: str) -> str:
    """Deploy with settings; return what was printed."""
    path = host.folder / "service.env"
    path.write_text(text)
    done = host.call("deploy", image, "--env-file", path)
    assert done.status == 0, done.err
    return done.out


def test_a_deploy_without_settings_takes_over_those_of_the_release(host: Host):
    """A key that was asked for once stays; the file itself may be gone."""
    with_settings(host, host.image("first", key="s3cret"), KEY + "SERVING_WORKERS=2\n")
    (host.folder / "service.env").unlink()
    out = host.deploy(host.image("second", key="s3cret")).out
    assert "settings as before: SERVING_API_KEY, SERVING_WORKERS" in out
    assert variables(host) == {"SERVING_API_KEY": "s3cret", "SERVING_WORKERS": "2"}


def test_what_changes_is_said(host: Host):
    """Values of secrets are not."""
    with_settings(host, host.image("first"), KEY + "SERVING_WORKERS=2\nSERVING_LOG_LEVEL=info\n")
    out = with_settings(host, host.image("second"), "SERVING_WORKERS=3\n\n# a remark\nSERVING_MAX_SIDE=99\n")
    for line in (
        "SERVING_API_KEY is dropped: from now on the service answers everybody",
        "SERVING_LOG_LEVEL is dropped",
        "SERVING_MAX_SIDE=99 is new",
        "SERVING_WORKERS=3 is changed, before: 2",
    ):
        assert f"settings: {line}\n" in out
    assert "s3cret" not in out


def test_other_settings_of_the_same_image_are_deployed(host: Host):
    """The digest alone does not say what serves."""
    image = host.image("first")
    host.deploy(image)
    assert "SERVING_WORKERS=2 is new" in with_settings(host, image, "SERVING_WORKERS=2\n")
    host.assert_in_order(image, image)
    assert "serving already" in with_settings(host, image, "# the same\nSERVING_WORKERS=2\n")
    assert host.call("deploy", image, "--memory", "3g").status == 0
    assert host.state["active"]["memory"] == "3g"
    assert variables(host) == {"SERVING_WORKERS": "2"}


def test_a_rollback_brings_the_earlier_settings_back(host: Host):
    """Also if the kept container has to be created again."""
    first = host.image("first")
    host.deploy(first)
    with_settings(host, host.image("second", key="s3cret"), KEY)
    host.engine.run(["docker", "rm", "--force", host.state["previous"]["container"]])
    assert (
        "SERVING_API_KEY is dropped: from now on the service answers everybody" in host.call("rollback").out
    )
    assert variables(host) == {}
    host.assert_in_order(first, host.state["previous"]["image"])


def test_status_shows_the_settings_and_no_secret(host: Host):
    """Of the release that serves and of the one that is kept."""
    with_settings(host, host.image("first"), KEY + "SERVING_WORKERS=2\n")
    host.deploy(host.image("second"))
    out = host.call("status").out
    assert out.count("SERVING_API_KEY=(hidden), SERVING_WORKERS=2, memory 2g") == 2
    assert "s3cret" not in out
    assert "traffic   green" in out


def test_settings_are_readable_by_their_owner_alone_and_go_with_their_release(host: Host):
    """Two releases are kept, so two files at most."""
    folder = host.state_folder / "settings"
    for number in range(4):
        with_settings(host, host.image(f"image-{number}"), f"SERVING_WORKERS={number + 1}\n")
    assert {path.read_text() for path in folder.iterdir()} == {"SERVING_WORKERS=3\n", "SERVING_WORKERS=4\n"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_settings_that_an_earlier_version_did_not_keep_are_read_from_the_container(host: Host):
    """Otherwise the first deploy after the upgrade would open a service that had a key."""
    with_settings(host, host.image("first", key="s3cret"), KEY)
    state = host.state
    for name in ("settings", "memory", "shadow"):
        del state["active"][name]
    state["active"]["of a later version"] = 1
    (host.state_folder / "state.json").write_text(json.dumps(state))
    host.deploy(host.image("second", key="s3cret"))
    assert variables(host) == {"SERVING_API_KEY": "s3cret"}
    state = host.state
    del state["previous"]["settings"]
    state["previous"]["slot"] = state["active"]["slot"]  # so that a rollback makes a new container
    (host.state_folder / "state.json").write_text(json.dumps(state))
    assert host.call("rollback").status == 0
    assert variables(host) == {"SERVING_API_KEY": "s3cret"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SERVING_WORKERS\n", "the settings have the line 'SERVING_WORKERS'; each must be NAME=value."),
        ('SERVING_API_KEY="s3cret"\n', "SERVING_API_KEY is in quotes, which container engines keep"),
        ("export A=b\n", "'export A'"),
    ],
)
def test_a_file_that_the_engine_would_read_otherwise_is_refused(host: Host, text: str, words: str):
    """Before anything starts, and without its secrets in the message."""
    (host.folder / "service.env").write_text(text)
    done = host.call("deploy", host.image("first"), "--env-file", host.folder / "service.env")
    assert done.status == 2
    assert words in done.err
    assert "s3cret" not in done.err
    assert not host.engine.containers


@pytest.mark.parametrize("kind", ["variable", "file"])
def test_a_key_from_the_environment_is_sent_and_the_first_of_several(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """For a service that this host did not start."""
    with_settings(host, host.image("first", key="new"), "SERVING_API_KEY=new,old\n")
    assert host.call("validate").status == 1
    (tmp_path / "key").write_text("new\nold\n")
    if kind == "variable":
        monkeypatch.setenv("SERVING_API_KEY", "new,old")
    else:
        monkeypatch.setenv("SERVING_API_KEY_FILE", str(tmp_path / "key"))
    assert host.call("validate").status == 0


def test_a_shadow_model_comes_from_an_image_and_belongs_to_the_release(host: Host):
    """Copied out of it by digest into the folder that the container sees as /data."""
    shadow = host.image("candidate")
    assert host.call("deploy", host.image("first"), "--shadow", shadow).status == 0
    digest = shadow.rsplit(":", 1)[-1][:12]
    assert variables(host) == {"SERVING_SHADOW_MODEL": f"/data/shadow-{digest}"}
    model = host.state_folder / "data" / f"shadow-{digest}"
    assert model.read_text() == "/app/model of candidate"
    assert "created" not in host.engine.containers
    host.deploy(host.image("second"))
    assert variables(host) == {"SERVING_SHADOW_MODEL": f"/data/shadow-{digest}"}
    assert shadow in host.call("status").out
    for name in ("third", "fourth"):
        assert host.call("deploy", host.image(name), "--shadow", "none").status == 0
    assert variables(host) == {}
    assert not model.exists()
    assert shadow in host.engine.removed
