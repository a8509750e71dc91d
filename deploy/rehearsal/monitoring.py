"""The rehearsal of Prometheus, Alertmanager and the dashboard, with the real rules."""

from __future__ import annotations

import contextlib
import http
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from rehearsal.machine import HERE, PORTS, STATE, WORK, Transcript, get, process, sh, until
from rehearsal.scenes import release

_SHOWN_SECONDS = 120
_PROMETHEUS = f"http://127.0.0.1:{PORTS['prometheus']}"


class Webhook(http.server.BaseHTTPRequestHandler):
    """Receives the notifications of Alertmanager."""

    alerts: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self) -> None:
        """Store name and state of each alert."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Webhook.alerts += [(alert["labels"]["alertname"], alert["status"]) for alert in body["alerts"]]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep requests off the terminal."""


def rehearse_monitoring(record: Transcript) -> None:
    """Check that every panel has data, and that an alert fires, reaches the receiver and clears."""
    until(lambda: len(query("rate(classifier_requests_total[1m])")) > 0, 60)
    board = json.loads((HERE / "monitoring/grafana/dashboards/classifier.json").read_text())
    empty = [
        panel["title"]
        for panel in board["panels"]
        for target in panel["targets"]
        if not query(_filled(target["expr"], "1m"))
    ]
    record.check(
        "every panel of the dashboard has data", not empty, f"{len(board['panels'])} panels; empty: {empty}"
    )
    panels = [_panel(panel) for panel in board["panels"]]
    (WORK / "panels.json").write_text(json.dumps(panels))  # rehearsal.dashboard draws it
    heard = until(lambda: ("ClassifierWatchdog", "firing") in Webhook.alerts, 30)
    record.check("the watchdog reaches the dead man's switch", heard)
    active = release("active")
    sh("docker", "stop", active["container"])
    began = time.monotonic()
    fired = until(lambda: ("ClassifierDown", "firing") in Webhook.alerts, 150)
    record.check(
        "the service is stopped: ClassifierDown reaches the receiver",
        fired,
        f"{time.monotonic() - began:.0f} s",
    )
    sh("docker", "start", active["container"])
    began = time.monotonic()
    cleared = until(lambda: ("ClassifierDown", "resolved") in Webhook.alerts, 150)
    record.check("it is started again: the alert clears", cleared, f"{time.monotonic() - began:.0f} s")


def query(expression: str) -> list[object]:
    """What Prometheus answers to a query; nothing if it does not answer."""
    status, text = get(f"{_PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    return list(json.loads(text)["data"]["result"]) if status == http.HTTPStatus.OK else []


def firing(alert: str) -> bool:
    """Whether Prometheus holds that the condition of an alert is met now."""
    return bool(query(f'ALERTS{{alertname="{alert}"}}'))


def _panel(panel: dict[str, Any]) -> dict[str, Any]:
    """Return a panel with the results of its queries over the last two minutes."""
    end = time.time()
    series = {}
    for target in panel["targets"]:
        expression = _filled(target["expr"], "20s")
        parameters = {"query": expression, "start": end - _SHOWN_SECONDS, "end": end, "step": 2}
        _, text = get(f"{_PROMETHEUS}/api/v1/query_range?{urllib.parse.urlencode(parameters)}")
        for found in json.loads(text)["data"]["result"]:
            metric = found["metric"]
            parts = re.split(r"{{(\w+)}}", target.get("legendFormat", ""))  # alternates text and labels
            name = "".join(metric.get(part, "") if i % 2 else part for i, part in enumerate(parts))
            series[name] = [(moment - end, float(value)) for moment, value in found["values"]]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    return {
        "title": panel["title"],
        "type": panel["type"],
        "unit": unit,
        "at": panel["gridPos"],
        "series": series,
    }


def _filled(expression: str, interval: str) -> str:
    """Replace the dashboard's variables."""
    for name, value in (("$__rate_interval", interval), ("$job", "classifier"), ("$environment", ".*")):
        expression = expression.replace(name, value)
    return expression


def monitoring_files(key: str = "", waits: Mapping[str, str] | None = None) -> None:
    """Write the real rules and routes with the rehearsal's addresses and shorter intervals.

    Args:
        key: The service's API key, if it has one.
        waits: What stands in the rules and routes, such as `for: 15m`, and what takes its place.
    """
    monitoring = HERE / "monitoring"
    rules = (monitoring / "rules.yml").read_text()
    (WORK / "rules.yml").write_text(_replaced(rules, waits or {}))
    text = (monitoring / "prometheus.yml").read_text().replace("15s", "1s")
    text = text.replace("alertmanager:9093", f"127.0.0.1:{PORTS['alertmanager']}")
    text = text.replace("/var/lib/cats-dogs/targets*.json", str(STATE / "targets.json"))
    compose = text.index("  - job_name: classifier\n"), text.index("  - job_name: classifier-host\n")
    text = text[: compose[0]] + text[compose[1] :]
    if key:
        text = text.replace(
            "job_name: classifier-host",
            f"job_name: classifier-host\n    authorization: {{credentials: {key}}}",
        )
    (WORK / "prometheus.yml").write_text(text)
    text = (monitoring / "alertmanager.yml").read_text().replace("group_interval: 5m", "group_interval: 5s")
    text = _replaced(text, waits or {})
    (WORK / "alertmanager.yml").write_text(text.replace("127.0.0.1:9095", f"127.0.0.1:{PORTS['webhook']}"))


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def monitoring(key: str = "", waits: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a webhook receiver, Alertmanager and Prometheus, configured by `monitoring_files`."""
    monitoring_files(key, waits)
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", PORTS["webhook"]), Webhook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    with (
        process(
            "alertmanager",
            "prometheus-alertmanager",
            f"--config.file={WORK}/alertmanager.yml",
            f"--storage.path={WORK}/alertmanager",
            "--cluster.listen-address=",
            f"--web.listen-address=127.0.0.1:{PORTS['alertmanager']}",
        ),
        process(
            "prometheus",
            "prometheus",
            f"--config.file={WORK}/prometheus.yml",
            f"--storage.tsdb.path={WORK}/tsdb",
            f"--web.listen-address=127.0.0.1:{PORTS['prometheus']}",
        ),
    ):
        yield
    hook.shutdown()
