#!/usr/bin/env python3
"""`make rehearse-loop`: a world drifts, people label, and a better model goes live; then a caller lies.

Real components, as in `make rehearse`: engine, registry, haproxy, deploy.py, Prometheus and Alertmanager with
the real rules; and Chromium for the people. The pictures are drawn, so the truth about each is known.
`scripts/rehearse_loop.sh` runs this in a copy of the checkout, so that data and models of the checkout stay
as they are. Writes `build/rehearsal/transcript.md` there; exits with 1 if a check failed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time

from rehearsal import circle
from rehearsal.callers import KEY
from rehearsal.engine import COMMANDS, base_image, build_arguments, install
from rehearsal.machine import STATE, WORK, Transcript
from rehearsal.monitoring import monitoring
from rehearsal.servers import delivery, haproxy
from rehearsal.scenes import deploy

_WAITS = {"for: 15m": "for: 10s", "group_wait: 30s": "group_wait: 1s"}
"""An alert that has to hold for 15 minutes has to hold for 10 seconds here; the conditions are the real ones."""


def main() -> int:
    """Run the rehearsal; return 0 if every check passed."""
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    STATE.mkdir(parents=True)
    record = Transcript()
    install(COMMANDS)
    try:
        with contextlib.ExitStack() as stack:
            pictures = circle.draw()
            circle.train_first(record, pictures)
            stack.enter_context(delivery())
            image = circle.build_first(build_arguments(base_image()))
            deploy("init")
            stack.enter_context(haproxy())
            circle.serve(record, image)
            stack.enter_context(monitoring(KEY, _WAITS))
            circle.drift(record, pictures)
            circle.review(record, pictures)
            circle.improve(record, pictures)
            circle.go_live(record, pictures)
            circle.poison(record, pictures)
    finally:
        (WORK / "transcript.md").write_text(record.table())
    minutes = (time.monotonic() - began) / 60
    record.check("all of it takes less than 15 minutes", minutes < 15, f"{minutes:.1f} minutes")
    (WORK / "transcript.md").write_text(record.table())
    print("FAILED" if record.failed else "passed")
    return int(record.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
