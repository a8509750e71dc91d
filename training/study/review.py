"""`python -m training review-suspects`: show the worst suspects of the audit at /review, for people to label.

The service runs on this machine until Ctrl-C. Then what people decided is appended to `configs/labels.csv`:
the label, or none for a photo of none of the classes. Rows that are there stay, and their photos are not
shown.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys

import msgspec

from common.errors import PipelineError
from serving.contract.suspects import Reviewed, Suspects
from training.options import description
from training.place import Place


def main(arguments: list[str]) -> int:
    """Let people label, and write what they and those before them decided."""
    parser = argparse.ArgumentParser(
        prog="python -m training review-suspects", description=description(__doc__)
    )
    parser.add_argument(
        "--write", action="store_true", help="show nothing: only write what was decided so far"
    )
    only_write = parser.parse_args(arguments).write
    place = Place()
    from training.study import decisions

    said = _reviewed(place).said if place.review.exists() else []
    status = 0
    if not only_write:
        suspects = decisions.worst(place, {photo.sha256 for photo in said})
        place.review.parent.mkdir(parents=True, exist_ok=True)
        if waiting := _reviewed(place, suspects).waiting:
            status = _serve(place, waiting)
            said = _reviewed(place).said
        else:
            print(f"No suspect of {place.audit}/suspects.csv waits for a verdict. Find new ones: make audit.")
    decisions.write(place, said)
    return status


def _reviewed(place: Place, suspects: Suspects | None = None) -> Reviewed:
    """What people said, once the suspects, if any are given, wait for them."""
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-m", "serving", "suspects", str(place.review), *["--fill"] * bool(suspects)],
        input=msgspec.json.encode(suspects),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise PipelineError(f"{place.review} could not be read or filled; the reason is above.")
    return msgspec.json.decode(done.stdout, type=Reviewed)


def _serve(place: Place, waiting: int) -> int:
    """Serve the review until a signal; return the service's exit status."""
    environment = {"SERVING_LOG_LEVEL": "warning"} | os.environ
    environment |= {"SERVING_REVIEW": str(place.review), "SERVING_REVIEW_SHARE": "0"}
    key = ""
    if not environment.get("SERVING_API_KEY") and not environment.get("SERVING_API_KEY_FILE"):
        environment["SERVING_API_KEY"] = secrets.token_urlsafe()
        key = f" and enter the key {environment['SERVING_API_KEY']}"
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    print(
        f"{waiting} photos wait. Open http://{host}:{port}/review{key}\n"
        f"Ctrl-C stops, and writes what was decided into {place.reviewed}.",
        flush=True,
    )
    # In a group of its own: the terminal would send it Ctrl-C too, and a second signal cuts its stop short.
    command = [sys.executable, "-m", "serving"]
    with subprocess.Popen(command, env=environment, process_group=0) as service:  # noqa: S603
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda *_: service.terminate())
        return service.wait()
