"""`python -m training track`: record a live evaluation (reports/live) as a run in MLflow."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from common.errors import PipelineError
from training.config import TrackingConfig, TrainConfig
from training.options import description, parse
from training.place import Place

_OUTCOMES: Final = {True: "passes", False: "fails", None: "too few photos to tell"}


def main(arguments: list[str]) -> int:
    """Log the folder; print the run."""
    parser = argparse.ArgumentParser(prog="python -m training track", description=description(__doc__))
    parser.add_argument(
        "folder", type=Path, help="the folder that `python -m evaluation live` wrote, such as reports/live"
    )
    folder = parser.parse_args(arguments).folder
    settings = parse(TrainConfig, Place().train_config, [], command="track", about="")
    print(f"MLflow run {log_live(settings.tracking, folder)}")
    return 0


def log_live(tracking: TrackingConfig, folder: Path) -> str:
    """Log a live evaluation's folder as a run of the experiment `<experiment>-live`; return the run's id.

    Raises:
        PipelineError: the folder has no live evaluation, or MLflow does not answer.
    """
    from training.tracking import Tracker

    try:
        figures = json.loads((folder / "live.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(
            f"There is no live evaluation in {folder}. Run make evaluate-live first."
        ) from error
    tracker = Tracker(replace(tracking, experiment=f"{tracking.experiment}-live"))
    tracker.log_metrics(_scalars(figures))
    tracker.set_tags(
        {f"model.{name}": str(value) for name, value in figures["model"].items()}
        | {f"gate.{name}": _OUTCOMES[passed] for name, passed in figures["gates"].items()}
    )
    for path in sorted(folder.iterdir()):
        if path.is_file():
            tracker.log_file(path)
    tracker.finish()
    return tracker.run_id


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """All plain numbers, and the values of figures that are defined."""
    names = ("failed_share", "throughput_per_second", "retries", "photos")
    values = {name: figures[name] for name in names}
    values |= {
        name: figure["value"]
        for name, figure in figures.items()
        if isinstance(figure, dict) and isinstance(figure.get("value"), float | int)
    }
    values |= {f"latency_{name}_ms": value for name, value in figures["latency_ms"].items()}
    return {name: float(value) for name, value in values.items()}
