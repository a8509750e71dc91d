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
import http.server
import os
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from rehearsal.engine import COMMANDS, base_image, build, build_arguments, docker_engine, install
from rehearsal.load import Load, failures, show
from rehearsal.machine import HERE, PORTS, ROOT, STATE, WORK, Transcript, process, sh, until
from rehearsal.monitoring import Webhook, monitoring_files, rehearse_monitoring
from rehearsal.scenes import deploy, rehearse_canary, rehearse_deploys, rehearse_hardening, rehearse_night


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
    (WORK / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {WORK}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{PORTS['registry']}'}}\n"
    )
    wheels = os.environ.get("PIP_FIND_LINKS") or str(WORK)
    broken = ROOT / "models" / "damaged.pt"
    with contextlib.ExitStack() as stack:
        install(COMMANDS)
        stack.enter_context(docker_engine())
        stack.callback(lambda: sh("docker", "rm", "--force", *containers_of_ours(), check=False))
        stack.enter_context(process("registry", "docker-registry", "serve", str(WORK / "registry.yml")))
        stack.enter_context(
            process(
                "wheels",
                sys.executable,
                "-m",
                "http.server",
                str(PORTS["wheels"]),
                "--bind",
                "127.0.0.1",
                "--directory",
                wheels,
            )
        )
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
        stack.enter_context(
            process(
                "haproxy",
                "haproxy",
                "-f",
                str(HERE / "proxy/haproxy.cfg"),
                STATE=str(STATE),
                PORT=str(PORTS["proxy"]),
            )
        )
        until((STATE / "haproxy.sock").exists, 10)
        done = deploy("deploy", first)
        record.check("the first deploy succeeds", done.returncode == 0, done.stderr[-300:].replace("\n", " "))
        monitoring_files()
        hook = http.server.ThreadingHTTPServer(("127.0.0.1", PORTS["webhook"]), Webhook)
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        stack.callback(hook.shutdown)
        stack.enter_context(
            process(
                "alertmanager",
                "prometheus-alertmanager",
                f"--config.file={WORK}/alertmanager.yml",
                f"--storage.path={WORK}/alertmanager",
                "--cluster.listen-address=",
                f"--web.listen-address=127.0.0.1:{PORTS['alertmanager']}",
            )
        )
        stack.enter_context(
            process(
                "prometheus",
                "prometheus",
                f"--config.file={WORK}/prometheus.yml",
                f"--storage.tsdb.path={WORK}/tsdb",
                f"--web.listen-address=127.0.0.1:{PORTS['prometheus']}",
            )
        )
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
    head = "| check | figure | passed |\n| --- | --- | --- |\n"
    (WORK / "transcript.md").write_text(head + "\n".join(record.lines) + "\n")
    print(
        f"{'FAILED' if record.failed else 'passed'} in {time.monotonic() - began:.0f} s: {WORK}/transcript.md"
    )
    return int(record.failed > 0)


def containers_of_ours() -> list[str]:
    """Return the names of the containers that deploy.py created here; the host may have others."""
    names = sh(
        "docker",
        "ps",
        "--all",
        "--filter",
        f"label=deploy.state={STATE}",
        "--format",
        "{{.Names}}",
        check=False,
    ).stdout
    return names.split()


if __name__ == "__main__":
    sys.exit(main())
