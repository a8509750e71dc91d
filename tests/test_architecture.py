"""The rules between the rooms."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.tiny import ROOT

ROOMS = ("common", "bench", "serving", "training", "evaluation")
HEAVY = (
    "torchvision",
    "lightning",
    "mlflow",
    "dvc",
    "timm",
    "pandas",
    "sklearn",
    "matplotlib",
    "training",
    "evaluation",
)


def test_import_contracts_hold():
    """The contracts of pyproject.toml, as `make lint` checks them."""
    done = subprocess.run(
        ["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_serving_app_loads_no_training_library():
    """What a process has loaded after importing the app, however it came there."""
    code = f"import sys, serving.http.app, serving.__main__; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_package_files_import_nothing(room: str):
    """An `__init__` that imports would load a whole room for one module."""
    for path in (ROOT / room).rglob("__init__.py"):
        imports = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        assert not imports, path


def test_every_third_party_import_of_serving_is_required_by_name():
    """What serving imports stands in requirements/serve.in, not just in what something else brings."""
    required = {
        line.split("=")[0].strip().lower().replace("-", "_")
        for line in (ROOT / "requirements/serve.in").read_text().splitlines()
        if line and not line.startswith("#")
    }
    names = {"PIL": "pillow"}
    for path in (ROOT / "serving").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in (
                {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"serving", "common"}
            ):
                assert names.get(top, top).lower() in required, f"{path.name} imports {top}"
