"""Photos by path in, one table row each out. `local` and `ray` run it over many photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from serving.contract.answer import Refusal
from serving.runtime.handler import load_handler


class Scorer:
    """One artefact, loaded and checked by its probe. Safe to share between threads."""

    def __init__(self, model: Path) -> None:
        """Load the artefact and check it by its probe.

        Raises:
            ArtifactError: it cannot be loaded, or fails its probe.
        """
        self.handler = load_handler(model)
        card = self.handler.artifact.card
        self.schema = pa.schema(
            [
                ("path", pa.string()),
                ("prediction", pa.string()),
                ("probability", pa.float32()),
                *((f"p_{label}", pa.float32()) for label in card.labels),
                ("uncertain", pa.bool_()),
                ("unfamiliar", pa.bool_()),
                ("error", pa.string()),
                ("detail", pa.string()),
            ],
            metadata={"model": card.name, "version": card.version, "sha256": self.handler.artifact.sha256},
        )
        """Of the rows; its metadata names the artefact."""

    def row(self, path: str) -> dict[str, Any]:
        """The prediction for one photo, or why there is none; missing columns are left out."""
        try:
            body = Path(path).read_bytes()
        except OSError as error:
            return {"path": path, "error": "unreadable", "detail": error.strerror or type(error).__name__}
        answer = self.handler.handle([{"body": body}])[0]
        if isinstance(answer, Refusal):
            return {"path": path, "error": answer.error, "detail": answer.detail}
        return {
            "path": path,
            "prediction": answer.prediction,
            "probability": answer.probability,
            "uncertain": answer.uncertain,
            "unfamiliar": answer.unfamiliar,
            **{f"p_{label}": value for label, value in answer.probabilities.items()},
        }

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Rows as a table; missing columns are null."""
        return pa.Table.from_pylist(list(rows), schema=self.schema)


def outcomes(table: pa.Table) -> Counter[str]:
    """Number of rows per outcome: ok, or the error's code."""
    return Counter(code or "ok" for code in table["error"].to_pylist())
