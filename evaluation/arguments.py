"""The arguments of each command. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.figures.gates import GATES


def offline(parser: argparse.ArgumentParser) -> None:
    """Send the test split through the handler that serves, and judge the answers.

    Photos go in as encoded bytes, so that decode, preprocessing and artefact are those of production. Writes
    `reports/evaluation/`. Exits 1 if a gate of `configs/gates.yaml` fails.
    """
    _model(parser, "models/model.pt")
    _photos(parser)
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    _out(parser, "reports/evaluation")
    _gates(parser)
    parser.add_argument("--report-only", action="store_true", help="exit 0 whatever the gates say")


def compare(parser: argparse.ArgumentParser) -> None:
    """Decide whether the candidate may replace the champion: both answer the same photos.

    Accuracy is compared by McNemar's test and a bound on the difference, on all photos and on each kind of
    them; calibration, latency and size by limits. Writes `reports/compare/`. Exits 1 if a gate of
    `configs/gates.yaml` fails.
    """
    parser.add_argument("--candidate", type=Path, default=Path("models/model.pt"))
    parser.add_argument("--champion", type=Path, default=Path("models/release/model.pt"))
    _photos(parser)
    _labelled(parser)
    _out(parser, "reports/compare")
    _gates(parser)


def slices(parser: argparse.ArgumentParser) -> None:
    """Find where the model is weak, by kind of photo and by kind of damage.

    Accuracy with its interval on the test split's photos by size, shape, light, sharpness, colour and JPEG
    quality, and on some of them after eleven corruptions at five strengths. Writes `build/slices/`.
    """
    _model(parser, "models/model.pt")
    _photos(parser)
    parser.add_argument("--photos", type=int, default=300, help="of the test split, for each corruption")
    _out(parser, "build/slices")


def shifts(parser: argparse.ArgumentParser) -> None:
    """Measure which changes of the photos the drift alarm notices, and how soon.

    The test split's photos are changed in known ways and measured as the service measures them. Windows drawn
    from them are held to the artefact's reference: the share of windows that alarm, by size of the window,
    without a change (false alarms) and with each. Writes `build/shifts/`.
    """
    _model(parser, "models/release/model.pt")
    _photos(parser)
    _labelled(parser)
    parser.add_argument("--strangers", type=Path, help="folder of photos that show none of the classes")
    parser.add_argument("--windows", type=int, default=400, help="windows drawn for each change and size")
    _out(parser, "build/shifts")


def live(parser: argparse.ArgumentParser) -> None:
    """Send labelled photos to a running service, and judge the answers.

    Reports accuracy with its interval, calibration, latency by stage and every error by type; compares the
    accuracy with that of the model's test split and, given the artefact, every answer with the offline
    handler's. Writes `reports/live/`. Exits 1 if a gate of `configs/gates.yaml` fails.
    """
    parser.add_argument("--url", required=True, help="address of the service, as http://127.0.0.1:8000")
    parser.add_argument(
        "--labelled", type=Path, required=True, help="folder with a sub-folder a class, or CSV: path,label"
    )
    parser.add_argument("--model", type=Path, help="the artefact that should be served, to compare with")
    parser.add_argument("--concurrency", type=_positive, default=8, help="photos under way at once")
    _out(parser, "reports/live")
    _gates(parser)


def drift(parser: argparse.ArgumentParser) -> None:
    """Judge the service's latest photos against those that the model was validated on.

    Reads the service's window (`GET /drift`) and reports each quantity's distribution, its distance from the
    reference and its test; no label is needed. Writes `reports/drift/`. Exits 1 if a quantity has drifted.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="address of the service, as http://127.0.0.1:8000")
    source.add_argument("--file", type=Path, help="the JSON of GET /drift, stored before")
    _out(parser, "reports/drift")


def score(parser: argparse.ArgumentParser) -> None:
    """Answer a folder or a list of photos, however many: one row a photo, in order.

    A row has the path, the prediction, the probability of each label, uncertain and unfamiliar, or the error
    of a file that cannot be answered. Rows are kept in parts next to OUT until all are there: an interrupted
    run resumes with the first part that is missing.
    """
    parser.add_argument("photos", type=Path, help="folder, or a text file with a path a line")
    parser.add_argument("out", type=_parquet, help="the Parquet file to write")
    _model(parser, "models/release/model.pt")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--workers", type=int, default=2, help="processes of the engine ray")


def release(parser: argparse.ArgumentParser) -> None:
    """Put the evaluated artefact in models/release, with its card and figures, if its gates pass."""
    del parser  # it takes none


def _model(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--model", type=Path, default=Path(default))


def _photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", type=Path, default=Path("data/prepared/manifest.csv"))
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))


def _labelled(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labelled", type=Path, help="folder or CSV, instead of the manifest's test split")


def _out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(default))


def _gates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gates", type=Path, default=GATES)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def _parquet(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".parquet":
        raise argparse.ArgumentTypeError(f"{path} should end in .parquet")
    return path
