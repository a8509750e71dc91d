#!/usr/bin/env python3
"""`make rehearse-loop`: a world drifts, people label, and a better model goes live; then a caller lies.

Real components, as in `make rehearse`: engine, registry, haproxy, deploy.py, Prometheus and Alertmanager with
the real rules; and Chromium for the people. The pictures are drawn, so the truth about each is known.
`scripts/rehearse_loop.sh` runs this in a copy of the checkout, whose data, models, gates and smoke photos it
replaces. Writes `build/rehearsal/transcript.md` there; exits with 1 if a check failed.
"""

from __future__ import annotations

import shutil
import sys
import time

from rehearsal.callers import KEY
from rehearsal.cycle import WAITS, Cycle
from rehearsal.engine import COMMANDS, base_image, build_arguments, install
from rehearsal.machine import ROOT, STATE, WORK, Transcript
from rehearsal.monitoring import monitoring
from rehearsal.scenes import deploy
from rehearsal.servers import delivery, haproxy

_MOST_MINUTES = 15
_SHORTER = "; ".join(f"`{old}` is `{new}`" for old, new in WAITS.items())
_HEAD = f"""\
# Rehearsal of the loop

Not as in production: in the rules and routes, {_SHORTER};
recipe, gates and the shares of the splits are those of `scripts/rehearse_loop.sh`. Intervals are at 95 %.

Pictures of the page: [before an answer](review-before.png), [after the last](review-after.png), [the second
person's](review-second.png). The loop's own reports: [the new model](loop-report.md), [the
lies](poisoned-report.md).
"""


def main() -> int:
    """Run the rehearsal; return 0 if every check passed."""
    if (ROOT / ".git").exists():
        raise SystemExit("error: this replaces data and models. Run it in a copy: make rehearse-loop")
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    STATE.mkdir(parents=True)
    record = Transcript()
    try:
        _rehearse(Cycle(record))
        minutes = (time.monotonic() - began) / 60
        record.check(
            f"all of it in {_MOST_MINUTES} minutes", minutes < _MOST_MINUTES, f"{minutes:.1f} minutes"
        )
    finally:
        (WORK / "transcript.md").write_text(f"{_HEAD}\n{record.table()}")
    print("FAILED" if record.failed else "passed")
    return int(record.failed > 0)


def _rehearse(cycle: Cycle) -> None:
    install(COMMANDS)
    cycle.train_first()
    with delivery():
        cycle.build_first(build_arguments(base_image()))
        deploy("init")
        with haproxy():
            cycle.deploy_first()
            with monitoring(KEY, WAITS):
                cycle.drift()
                cycle.review()
                cycle.improve()
                cycle.go_live()
                cycle.poison()


if __name__ == "__main__":
    sys.exit(main())
