#!/usr/bin/env python3
"""`make rehearse`: the whole delivery on this machine with the real components, including every failure.

A registry, images pushed and pulled by digest, haproxy, deploy.py, Prometheus with the real rules,
Alertmanager. Load runs from the first deploy to the end, and every request is counted. Writes
`build/rehearsal/transcript.md`; exits with 1 if a check failed. Uses the running docker engine, or, as root
on Debian, starts its own and stops it afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from rehearsal.engine import COMMANDS, base_image, build, build_arguments, install
from rehearsal.load import Load, failures, show
from rehearsal.machine import HERE, ROOT, STATE, WORK, Transcript, sh
from rehearsal.monitoring import monitoring, rehearse_monitoring
from rehearsal.scenes import deploy, rehearse_canary, rehearse_deploys, rehearse_hardening, rehearse_night
from rehearsal.servers import delivery, haproxy


def damage(model: Path, to: Path) -> Path:
    """Copy a model with one bit of its weights flipped, which the file format does not detect."""
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 0x10
    to.write_bytes(data)
    return to


def main() -> int:
    """Run the rehearsal; return 0 if every check passed."""
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    STATE.mkdir(parents=True)
    record = Transcript()
    broken = ROOT / "models" / "damaged.pt"
    with contextlib.ExitStack() as stack:
        install(COMMANDS)
        stack.enter_context(delivery())
        arguments = build_arguments(base_image())
        stack.callback(lambda: broken.unlink(missing_ok=True))
        first, size = build("v1", Path("models/release/model.pt"), arguments)
        second, _ = build("v2", Path("models/release/model-int8.onnx"), arguments)
        damaged, _ = build(
            "damaged", damage(ROOT / "models/release/model.pt", broken).relative_to(ROOT), arguments
        )
        label = sh(
            "docker", "inspect", "--format", '{{index .Config.Labels "model.sha256"}}', first
        ).stdout.strip()
        sha256 = hashlib.sha256((ROOT / "models/release/model.pt").read_bytes()).hexdigest()
        record.check(
            "the pushed image, by its digest, is labelled with its model", label == sha256, f"{size:.0f} MB"
        )
        deploy("init")
        stack.enter_context(haproxy())
        done = deploy("deploy", first)
        record.check("the first deploy succeeds", done.returncode == 0, done.stderr[-300:].replace("\n", " "))
        stack.enter_context(monitoring())
        with Load((HERE / "smoke" / "dog.jpg").read_bytes()) as load:
            rehearse_deploys(record, first, second, damaged, load)
            rehearse_hardening(record)
            rehearse_canary(record, first, second, load)
        record.check(
            "all requests of the rehearsal",
            not failures(Counter(outcome for _, outcome in load.seen)),
            show(Counter(outcome for _, outcome in load.seen)),
        )
        rehearse_night(record, first, second, damaged)
        with Load((HERE / "smoke" / "cat.jpg").read_bytes()):
            rehearse_monitoring(record)
    (WORK / "transcript.md").write_text(record.table())
    print(
        f"{'FAILED' if record.failed else 'passed'} in {time.monotonic() - began:.0f} s: {WORK}/transcript.md"
    )
    return int(record.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
