"""What an environment holds: versions and size of its packages.

`python -m bench.installed JSON` runs with the Python of that environment, of which it needs nothing.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import Any, Final

_SHOWN: Final = (
    *("torch", "onnxruntime", "openvino", "litestar", "fastapi", "uvicorn", "granian", "litserve", "bentoml"),
    *("keras", "tensorflow-cpu", "timm", "pillow"),
)
_INSTALLERS: Final = {"pip", "setuptools"}
"""What `python -m venv` puts into every environment."""


def contents(only: list[str] | None, left_out: list[str]) -> dict[str, Any]:
    """`versions` of the relevant packages, and `megabytes` of all: their files but for bytecode and CUDA.

    Args:
        only: Names of the packages that count; None for all but the installers.
        left_out: Names of packages that do not count.
    """
    versions: dict[str, str] = {}
    total = 0
    for package in metadata.distributions():
        name = package.name.lower().replace("_", "-")
        if name in left_out or (name in _INSTALLERS if only is None else name not in only):
            continue
        total += _bytes(package)
        if name in _SHOWN:
            versions[name] = package.version
    return {
        "versions": {name: versions[name] for name in _SHOWN if name in versions},
        "megabytes": total / 1e6,
    }


def _bytes(package: metadata.Distribution) -> int:
    """Size of its files; a build of torch for CUDA holds libraries that one for a CPU does not."""
    paths = (
        package.locate_file(file)
        for file in package.files or []
        if file.suffix != ".pyc" and not file.name.startswith("libtorch_cuda")
    )
    return sum(path.stat().st_size for path in paths if path.is_file())  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(json.dumps(contents(**json.loads(sys.argv[1]))))
