"""The import rules between the packages, and the cost of asking their commands for help."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import ROOT

PACKAGES = ("common", "serving", "training", "evaluation", "bench", "loop")
TRAINING_LIBRARIES = {"torchvision", "lightning", "mlflow", "dvc", "timm", "pandas", "sklearn", "matplotlib"}
HEAVY = TRAINING_LIBRARIES | {"torch", "litestar", "uvicorn", "scipy"}

_RUN = """
import importlib, json, sys

loaded = {}
for package, words in json.loads(sys.argv[1]):
    try:
        status = importlib.import_module(package + ".__main__").main(words)
    except SystemExit as end:
        status = end.code
    assert status == 0, (package, words)
    loaded[" ".join([package, *words])] = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps(loaded), file=sys.stderr)
"""


def loaded_after(
    calls: list[tuple[str, list[str]]], environment: dict[str, str], folder: Path = ROOT
) -> dict[str, set[str]]:
    """The top-level modules that one process has loaded after each of some commands."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(calls)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {call: set(names) for call, names in json.loads(done.stderr.splitlines()[-1]).items()}


def test_import_contracts_hold():
    """The allow lists of pyproject.toml, as `make lint` checks them."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ["training", "evaluation", "serving", "bench"])
def test_help_loads_nothing_heavy(package: str, environment: Callable[..., dict[str, str]]):
    """The list of commands, and each command's options, answer without torch or another large library."""
    commands = getattr(importlib.import_module(f"{package}.__main__"), "COMMANDS", {})
    calls = [(package, ["--help"]), *((package, [name, "--help"]) for name in commands)]
    found = loaded_after(calls, environment())
    assert len(found) == len(calls)
    assert not set().union(*found.values()) & HEAVY


def test_fetch_and_prepare_load_no_torch(workplace: Path, environment: Callable[..., dict[str, str]]):
    """Both only read and write photos and tables."""
    fetch = ["fetch", "--fetch.source", "sample", "--fetch.sample_per_class", "12"]
    found = loaded_after([("training", fetch), ("training", ["prepare"])], environment(), workplace)
    fetched, prepared = found.values()
    assert not fetched & HEAVY
    assert prepared & HEAVY <= {"pandas", "scipy"}


def test_the_health_check_loads_the_standard_library_alone(environment: Callable[..., dict[str, str]]):
    """It runs every few seconds in each container."""
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    always = {name.split(".")[0] for name in bare.stdout.split()} | set(sys.stdlib_module_names)
    (found,) = loaded_after([("serving", ["healthcheck", "--help"])], environment()).values()
    assert found - always <= {"common", "serving"}


def test_common_loads_no_torch():
    """None of its modules loads torch, directly or indirectly."""
    names = [module.name for module in pkgutil.iter_modules([str(ROOT / "common")], "common.")]
    assert len(names) > 5
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_serving_app_loads_no_training_library():
    """Importing the app loads none, directly or indirectly."""
    unwanted = TRAINING_LIBRARIES | {"training", "evaluation", "bench", "scipy"}
    code = f"import sys, serving.http.server, serving.__main__; print({unwanted} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_package_files_import_nothing(package: str):
    """An `__init__` that imports would load a whole package for one module."""
    for path in (ROOT / package).rglob("__init__.py"):
        imports = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        assert not imports, path


def test_every_third_party_import_of_serving_is_required_by_name():
    """What serving imports is in http.in, a serve*.in or otel.in, not just in what something else brings."""
    required = {
        line.split("=")[0].strip().lower().replace("-", "_")
        for name in ("http", "serve", "serve-onnx", "otel")
        for line in (ROOT / f"requirements/{name}.in").read_text().splitlines()
        if line and not line.startswith(("#", "-r"))
    }
    names = {"PIL": "pillow", "opentelemetry": "opentelemetry_sdk"}
    ours = {"serving", "common"} | set(sys.stdlib_module_names)
    for path in (ROOT / "serving").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {module.split(".")[0] for module in modules} - ours:
                assert names.get(top, top).lower() in required, f"{path.name} imports {top}"
