"""Execute docs/tour.ipynb. With --check only see that every cell runs (`make docs`); else keep outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import nbformat
from nbclient import NotebookClient

TOUR: Final = Path(__file__).resolve().parents[1] / "docs/tour.ipynb"


def main(arguments: list[str]) -> int:
    """Execute; a cell that fails ends it with the cell's trace. With --check nothing is written."""
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times of the execution
    if "--check" not in arguments:
        nbformat.write(notebook, TOUR)
    print(f"{TOUR.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
