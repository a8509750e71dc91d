"""The arguments of each command. Nothing heavy is imported here, so that `--help` is fast."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from evaluation.figures.gates import GATES

PHOTOS: Final = 300
"""Photos for each corruption."""
SPLITS: Final = ("train", "validation", "test", "production")
"""Of the manifest; looks at the last two are counted. `common.production` says what production is."""


def offline(parser: argparse.ArgumentParser) -> None:
    """Evaluate an artefact on one split, through the handler that serves.

    Photos go in as encoded bytes, so decoding, preprocessing and artefact are those of production. Writes
    `reports/evaluation/`. Exits 1 if a gate of `configs/gates.yaml` fails, 3 if there are too few photos to
    tell. A look at test or production is recorded in `data/test-ledger.csv`.
    """
    _model(parser, "models/model.pt")
    _photos(parser)
    _split(parser)
    _out(parser, "reports/evaluation")
    _gates(parser)
    parser.add_argument("--report-only", action="store_true", help="exit 0 even if a gate fails")


def compare(parser: argparse.ArgumentParser) -> None:
    """Decide whether a candidate may replace the champion; both predict the same photos.

    Compares accuracy by McNemar's test and by a bound on the difference, on all photos and on each slice;
    calibration, latency and size by limits. With several splits each must hold: a candidate that is better
    in production and has forgotten what test shows is refused. Writes `reports/compare/`. Exits 1 if a gate
    of `configs/gates.yaml` fails, 3 if there are too few photos to tell. A look at test or production is
    recorded in `data/test-ledger.csv`.
    """
    _path(parser, "--candidate", "models/model.pt", "artefact that may replace the champion")
    _path(parser, "--champion", "models/release/model.pt", "released artefact")
    _photos(parser)
    _labelled(parser)
    parser.add_argument(
        "--split",
        action="append",
        choices=SPLITS,
        help="split of the photos; several are judged one by one (default: validation)",
    )
    _out(parser, "reports/compare")
    _gates(parser)


def slices(parser: argparse.ArgumentParser) -> None:
    """Find where a model is weak, by kind of photo and by corruption.

    Reports accuracy with its interval on one split by size, shape, light, sharpness, colour and JPEG quality,
    and on some of its photos under eleven corruptions at five strengths. Writes `build/slices/`. A look at
    test or production is recorded in `data/test-ledger.csv`.
    """
    _model(parser, "models/model.pt")
    _photos(parser)
    _split(parser)
    parser.add_argument(
        "--photos", type=_positive, default=PHOTOS, help="photos for each corruption (default: %(default)s)"
    )
    _as_taken(parser)
    _out(parser, "build/slices")


def shifts(parser: argparse.ArgumentParser) -> None:
    """Measure which changes of the photos the drift alarm detects, and how soon.

    Changes validation photos in known ways, measures them as the service does, and lets them arrive in a
    window of others. Reports false alarms without a change, and with each change, and each quantity moved
    alone, how many photos arrive until the alarm. Writes `build/shifts/`.
    """
    _model(parser, "models/release/model.pt")
    _photos(parser)
    _labelled(parser)
    parser.add_argument("--strangers", type=Path, help="folder of photos that show none of the classes")
    parser.add_argument(
        "--runs", type=_positive, default=400, help="simulated runs in each row (default: %(default)s)"
    )
    _out(parser, "build/shifts")


def live(parser: argparse.ArgumentParser) -> None:
    """Evaluate a running service on labelled photos.

    Reports accuracy with its interval, calibration, latency by stage and every error by type. Compares the
    accuracy with the model's on its test split and, given --model, every prediction with the offline
    handler's. Writes `reports/live/`. Exits 1 if a gate of `configs/gates.yaml` fails, 3 if
    there are too few photos to tell. A look at production is recorded in `data/test-ledger.csv`.
    """
    parser.add_argument("--url", required=True, help="URL of the service, such as http://127.0.0.1:8000")
    photos = parser.add_mutually_exclusive_group(required=True)
    photos.add_argument(
        "--labelled", type=Path, help="folder with a sub-folder per class, or CSV: path,label"
    )
    photos.add_argument("--split", choices=["production"], help="the manifest's photos of production")
    _photos(parser)
    parser.add_argument("--model", type=Path, help="artefact that should be served; compares predictions")
    parser.add_argument(
        "--concurrency", type=_positive, default=8, help="requests in flight at once (default: %(default)s)"
    )
    _out(parser, "reports/live")
    _gates(parser)


def drift(parser: argparse.ArgumentParser) -> None:
    """Compare the service's latest photos with the model's drift reference.

    Reads the service's window (`GET /drift`) and reports each quantity's distribution, its distance from the
    reference and its test; needs no labels. Writes `reports/drift/`. Exits 1 if a quantity has drifted.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="URL of the service, such as http://127.0.0.1:8000")
    source.add_argument("--file", type=Path, help="stored JSON of GET /drift")
    _out(parser, "reports/drift")


def production(parser: argparse.ArgumentParser) -> None:
    """Estimate how often the deployed model is right, from the photos that people reviewed.

    Reads the counts of the review (`GET /review/progress`) and weighs the reviewed photos by how many they
    stand for, with a 95 % interval. Writes `reports/production/`.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="URL of the service, such as http://127.0.0.1:8000")
    source.add_argument("--file", type=Path, help="stored JSON of GET /review/progress")
    _out(parser, "reports/production")


def reference(parser: argparse.ArgumentParser) -> None:
    """Take the service's latest photos as the drift reference of the model that it runs.

    Reads the values of the service's window (`GET /drift/window`), without photos, and writes
    `….reference.json` next to the artefact, where the service finds it. Do it when the photos are as they
    should be.
    """
    parser.add_argument("--url", required=True, help="URL of the service, such as http://127.0.0.1:8000")
    _model(parser, "models/release/model.pt")


def rates(parser: argparse.ArgumentParser) -> None:
    """Measure how often right and wrong models pass the gates, by the number of photos.

    The model predicts validation, and so do wrong versions of it: with swapped labels, behind another resize,
    with noise in the weights. Sets of photos are drawn and judged by the live and promotion gates that
    predictions decide. Writes `build/rates/`.
    """
    _model(parser, "models/release/model.pt")
    _photos(parser)
    parser.add_argument(
        "--other",
        type=Path,
        action="append",
        default=[],
        help="another artefact to judge, such as an older one",
    )
    parser.add_argument(
        "--draws", type=_positive, default=1000, help="sets of each size (default: %(default)s)"
    )
    _out(parser, "build/rates")
    _gates(parser)


def intervals(parser: argparse.ArgumentParser) -> None:
    """Measure how often the published 95 % intervals hold the truth, by simulation.

    Draws sets of photos from a population whose figures are known, and counts for each kind of interval how
    many of the sets' intervals hold them. Needs no data. Writes `build/intervals/`.
    """
    parser.add_argument(
        "--sets", type=_positive, default=1000, help="sets of each size (default: %(default)s)"
    )
    _out(parser, "build/intervals")


def score(parser: argparse.ArgumentParser) -> None:
    """Predict every photo of a folder or a list: one row per photo, in order.

    A row has the path, the prediction, the probability of each label, uncertain and unfamiliar, or the error
    of a file that cannot be predicted. Finished parts are kept next to OUT until all are done, so an
    interrupted run resumes at the first missing part.
    """
    parser.add_argument("photos", type=Path, help="folder, or a text file with one path per line")
    parser.add_argument("out", type=_parquet, help="Parquet file to write")
    _model(parser, "models/release/model.pt")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this machine's cores, or Ray (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of the engine ray (default: %(default)s)"
    )


def release(parser: argparse.ArgumentParser) -> None:
    """Measure the exported models on the test split; release them to models/release if the gates pass.

    The released artefact's card has the figures of the test split; the network is the same. Slices, figures
    and card lie next to it. With photos of production the accuracy there is in figures and card too. The
    looks are recorded in `data/test-ledger.csv`. Exits 1 if a gate fails, 3 if there are too few photos to
    tell.
    """
    _photos(parser)
    _as_taken(parser)
    _gates(parser)


def _model(parser: argparse.ArgumentParser, default: str) -> None:
    _path(parser, "--model", default, "artefact")


def _photos(parser: argparse.ArgumentParser) -> None:
    _path(parser, "--manifest", "data/prepared/manifest.csv", "manifest of the splits")
    _path(parser, "--raw", "data/raw", "folder of the manifest's photos")


def _labelled(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labelled", type=Path, help="folder or CSV of labelled photos, instead of a split")


def _split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        default="validation",
        choices=SPLITS,
        help="split of the photos (default: %(default)s)",
    )


def _as_taken(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as-taken",
        type=Path,
        help="folder with some of the photos as they were taken, under the same paths as in --raw",
    )


def _out(parser: argparse.ArgumentParser, default: str) -> None:
    _path(parser, "--out", default, "folder to write to")


def _gates(parser: argparse.ArgumentParser) -> None:
    _path(parser, "--gates", str(GATES), "limits to judge by")


def _path(parser: argparse.ArgumentParser, option: str, default: str, meaning: str) -> None:
    parser.add_argument(option, type=Path, default=Path(default), help=f"{meaning} (default: %(default)s)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _parquet(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".parquet":
        raise argparse.ArgumentTypeError(f"{path} must end in .parquet")
    return path
