"""The archive of what a machine must not lose, and its restoration."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import tarfile
from pathlib import Path

import pytest

from deploy import backup
from tests.deploy.conftest import Host


def filled(folder: Path) -> dict[str, Path]:
    """Return places with a file of each kind."""
    kept = backup.places(folder / "state", folder)
    (folder / "state/settings").mkdir(parents=True)
    (folder / "state/settings/abc").write_text("SERVING_API_KEY=s3cret\n")
    (folder / "state/settings/abc").chmod(0o600)
    for name in ("state.json", "state.json.partial", "tls.pem", "lock", "targets.json"):
        (folder / "state" / name).write_text(name)
    (folder / "state/data").mkdir()
    (folder / "mlruns/1").mkdir(parents=True)
    (folder / "mlruns/1/meta.yaml").write_text("run")
    return kept


def test_everything_comes_back_and_what_is_made_anew_does_not(tmp_path: Path):
    """With its permissions; a database that is being written to is complete."""
    kept = filled(tmp_path / "old")
    database = sqlite3.connect(kept["state"] / "data/feedback.db")
    with contextlib.closing(database):
        database.execute("pragma journal_mode = wal")
        database.execute("create table answers (id integer)")
        database.executemany("insert into answers values (?)", [(number,) for number in range(1000)])
        database.commit()
        archive = tmp_path / "backup.tar.gz"
        lines = backup.save(archive, kept)
        assert (kept["state"] / "data/feedback.db-wal").exists()
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert [line.split(":")[0].split()[0] for line in lines] == ["state", "mlflow.db", "mlruns"]
    assert "nothing" in lines[1]
    new = backup.places(tmp_path / "new/state", tmp_path / "new")
    backup.restore(archive, new)
    found = {
        str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()
    }
    names = {
        "state/settings/abc",
        "state/state.json",
        "state/tls.pem",
        "state/data/feedback.db",
        "mlruns/1/meta.yaml",
    }
    assert found == names
    assert stat.S_IMODE((new["state"] / "settings/abc").stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(new["state"] / "data/feedback.db")) as restored:
        assert restored.execute("select count(*), max(id) from answers").fetchone() == (1000, 999)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A wrong machine keeps what it has."""
    kept = filled(tmp_path / "old")
    archive = tmp_path / "backup.tar.gz"
    backup.save(archive, kept)
    with pytest.raises(FileExistsError, match=r"exists\. Restore into an empty place"):
        backup.restore(archive, kept)
    assert backup.main(["restore", str(tmp_path / "none.tar.gz")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["state/../../evil", "other/file", "/etc/passwd"])
def test_an_archive_that_reaches_elsewhere_is_refused(tmp_path: Path, name: str):
    """Nothing of it is written."""
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name))
    kept = backup.places(tmp_path / "state", tmp_path)
    with pytest.raises(OSError, match="which is none of"):
        backup.restore(tmp_path / "evil.tar.gz", kept)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar.gz"]


def test_a_full_disk_leaves_the_archive_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is replaced whole or not at all."""
    kept = filled(tmp_path / "old")
    archive = tmp_path / "backup.tar.gz"
    backup.save(archive, kept)
    before = archive.read_bytes()
    monkeypatch.setattr(
        backup, "content", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert backup.main(["save", str(archive), "--state", str(kept["state"])]) == 2
    assert archive.read_bytes() == before


def test_a_lost_host_serves_again_from_its_backup(host: Host):
    """On a machine without containers: the release starts with its settings, and can be rolled back."""
    first, second = host.image("first", key="s3cret"), host.image("second", key="s3cret")
    (host.folder / "service.env").write_text("SERVING_API_KEY=s3cret\n")
    assert host.call("deploy", first, "--env-file", host.folder / "service.env").status == 0
    host.deploy(second)
    kept = backup.places(host.state_folder, host.folder)
    backup.save(host.folder / "backup.tar.gz", kept)
    for container in host.engine.containers.values():
        container.stop()
    host.engine.containers.clear()
    for path in (*host.state_folder.rglob("settings/*"), host.state_folder / "state.json"):
        path.unlink()
    (host.state_folder / "active.map").unlink()
    (host.state_folder / "history.jsonl").unlink()
    backup.restore(host.folder / "backup.tar.gz", kept)
    host.deploy(second)
    assert host.serving() == second.rsplit("@", 1)[-1]
    assert host.call("rollback").status == 0
    host.assert_in_order(first, second)
