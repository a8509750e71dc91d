"""Archive a model for TorchServe: `make torchserve` writes build/torchserve/NAME.mar from MODEL.

The archive has all that the model needs of this project: the artefact, `serving/torchserve.py` as its
handler, the modules that this imports, and a list of the packages that they import. TorchServe puts the
folder into which it unpacks an archive first on the import path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.command import guarded  # noqa: E402 (the path comes first)
from common.errors import UserError  # noqa: E402
from serving.contract import artifact  # noqa: E402

MODULES: Final = (
    *("common/__init__.py", "common/errors.py", "common/files.py"),
    *("serving/__init__.py", "serving/contract", "serving/runtime"),
    *("serving/http/__init__.py", "serving/http/kinds.py"),
)
"""What the handler file imports, directly or indirectly."""
PACKAGES: Final = ("msgspec", "numpy", "pillow")
"""What these modules import; TorchServe itself needs torch."""


def archive(model: Path, folder: Path) -> Path:
    """Archive the artefact `model` into `folder`, under the name and version of its card.

    Raises:
        ArtifactError: the file is missing or damaged.
        UserError: the archiver refuses it; it has printed why.
    """
    data = artifact.read_bytes(model)
    card = artifact.parse(model, data).card
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for path in MODULES:
            _copy(ROOT / path, work / "modules" / path)
        packages = (*PACKAGES, "onnxruntime") if artifact.is_onnx(data) else PACKAGES
        (work / "requirements.txt").write_text(_pins(packages), encoding="utf-8")
        (work / "tmp").mkdir()
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("torch-model-archiver"), "--export-path", work),
                *("--model-name", card.name, "--version", card.version),
                *("--serialized-file", model, "--handler", ROOT / "serving/torchserve.py"),
                *("--extra-files", work / "modules", "--requirements-file", work / "requirements.txt"),
            ],
            env=os.environ | {"TMPDIR": str(work / "tmp")},  # it deletes a folder of the model's name there
            check=False,
        )
        if done.returncode:
            raise UserError(f"torch-model-archiver refuses the model {card.name!r}, version {card.version}.")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(work / f"{card.name}.mar", folder / f"{card.name}.mar"))


def main(arguments: list[str]) -> int:
    """Archive the artefact that is named, and print where the archive is."""
    print(archive(Path(arguments[0]), Path("build/torchserve")))
    return 0


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(path, to)


def _pins(packages: tuple[str, ...]) -> str:
    """The locked version of each package, as pip reads it."""
    lock = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    return "".join(f"{pin}\n" for pin in re.findall(rf"^(?:{'|'.join(packages)})==\S+", lock, re.MULTILINE))


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
