"""The live evaluation, against services that behave and services that do not."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.photos import PhotosError, find_labelled
from evaluation.__main__ import main
from evaluation.figures import gates
from evaluation.figures.intervals import wilson
from evaluation.service.live import compare_offline, summarise
from evaluation.service.replies import Health, Reply
from evaluation.service.results import Consistency, Live
from tests import processes, tiny
from tests.pictures import encode, scene

Answer = Callable[[int], tuple[int, dict[str, object], dict[str, str]]]


def predicted(cat: float) -> tuple[int, dict[str, object], dict[str, str]]:
    """A response with this probability of a cat."""
    return 200, {"probabilities": {"cat": cat, "dog": 1 - cat}}, {}


@contextmanager
def service(answer: Answer, health: int = 200, *, ours: bool = True) -> Iterator[str]:
    """A service whose response to its n-th request is `answer(n)`."""
    count = iter(range(10_000))
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            content = (
                {"model": {"name": "fake", "version": "1", "sha256": "abc"}}
                if health == 200
                else {"reason": "loading"}
            )
            self.reply(health, content if ours else ["ok"])

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = next(count)
            self.reply(*answer(number))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three cats and three dogs."""
    for label in ("Cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / label / f"{number}.jpg").write_bytes(encode(scene()))
    return tmp_path / "photos"


def evaluate(url: str, labelled: Path, tmp_path: Path, gates: str) -> tuple[int, dict[str, object]]:
    """Run the command with one caller; return its exit status and its JSON."""
    (tmp_path / "gates.yaml").write_text(f"live: {gates}")
    out = tmp_path / "out"
    arguments = ["--url", url + "/", "--labelled", str(labelled), "--concurrency", "1"]
    status = main(["live", *arguments, "--out", str(out), "--gates", str(tmp_path / "gates.yaml")])
    stored = out / "live.json"
    return status, json.loads(stored.read_text()) if stored.exists() else {}


def test_a_good_service_passes(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Three cats, then three dogs, all right: exit 0, figures with n, pictures and a summary."""
    with service(lambda n: predicted(0.9 if n < 3 else 0.2)) as url:
        status, figures = evaluate(url, labelled, tmp_path, "{accuracy_min: 0.6, failed_share_max: 0}")
    assert status == 0
    assert figures["accuracy"] == pytest.approx({"value": 1.0, "low": 0.61, "high": 1.0, "n": 6}, abs=0.01)
    assert figures["gates"] == {"accuracy_min": True, "failed_share_max": True}
    assert figures["latency_ms"].keys() == {"p50", "p90", "p95", "p99"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("live.json", "summary.md", "report.html"),
        *("confusion_matrix.png", "reliability.png", "latency.png"),
    }
    assert re.search("PASS +accuracy_min", capsys.readouterr().out)


def test_the_photos_of_production_are_sent_and_the_look_is_counted(labelled: Path, workplace: Path):
    """Those of the manifest, and no others; the gates and figures are those of any labelled photos."""
    rows = [
        f"{photo.relative_to(labelled)},{photo.parent.name.lower()},{split},{photo}"
        for split, name in (("production", "Cat"), ("test", "dog"))
        for photo in sorted((labelled / name).iterdir())
    ]
    Path("manifest.csv").write_text("\n".join(["path,label,split,sha256", *rows]))
    Path("gates.yaml").write_text("live: {accuracy_min: 0.4}")
    words = ["--manifest", "manifest.csv", "--raw", str(labelled), "--gates", "gates.yaml", "--out", "out"]
    with service(lambda _: predicted(0.9)) as url:
        assert main(["live", "--url", url, "--split", "production", *words]) == 0
        assert json.loads(Path("out/live.json").read_text())["accuracy"]["n"] == 3
        looks = Path("data/test-ledger.csv").read_text()
        assert ",live production,fake 1,abc,3," in looks
        Path("manifest.csv").write_text("path,label,split,sha256\n")
        assert main(["live", "--url", url, "--split", "production", *words]) == 2


def test_a_few_photos_cannot_show_a_high_accuracy(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Six right of six neither pass nor fail a limit of 97 %: exit 3, and how many photos it takes."""
    with service(lambda n: predicted(0.9 if n < 3 else 0.2)) as url:
        status, figures = evaluate(url, labelled, tmp_path, "{accuracy_min: 0.97, slow_share_max: 0.03}")
    assert status == 3
    assert figures["gates"] == {"accuracy_min": None, "slow_share_max": None}
    assert "needs 125 photos, and these are 6" in capsys.readouterr().out
    assert "too few photos to tell" in (tmp_path / "out/report.html").read_text()


def test_a_wrong_service_fails_its_gate(labelled: Path, tmp_path: Path):
    """Every prediction is cat: half are right, exit 1."""
    with service(lambda _: predicted(0.9)) as url:
        status, figures = evaluate(url, labelled, tmp_path, "{accuracy_min: 0.9}")
    assert status == 1
    assert figures["accuracy"]["value"] == 0.5


def test_a_refused_photo_counts_by_its_type(labelled: Path, tmp_path: Path):
    """One 422 in six: the rest is measured, the failure is named, and its gate fails."""
    broken = 422, {"type": "/problems/broken-image"}, {}
    with service(lambda n: broken if n == 0 else predicted(0.9)) as url:
        status, figures = evaluate(url, labelled, tmp_path, "{failed_share_max: 0.0}")
    assert status == 1
    assert figures["errors"] == {"/problems/broken-image": 1}
    assert (figures["answered"], figures["failed_share"]) == (5, pytest.approx(1 / 6))


def test_requests_to_an_overloaded_service_are_retried(labelled: Path, tmp_path: Path):
    """After the time in Retry-After of a 503; retries are counted."""
    busy = 503, {"type": "/problems/overloaded"}, {"Retry-After": "0"}
    with service(lambda n: busy if n % 2 == 0 else predicted(0.9)) as url:
        status, figures = evaluate(url, labelled, tmp_path, "{failed_share_max: 0.0}")
    assert status == 0
    assert figures["retries"] == 6


def test_no_answer_at_all_still_gives_a_report(labelled: Path, tmp_path: Path):
    """If all fail, the report has no accuracy, and its gate fails."""
    with service(lambda _: (500, {}, {})) as url:
        status, figures = evaluate(url, labelled, tmp_path, "{accuracy_min: 0.5, slow_share_max: 0.03}")
    assert status == 1
    assert figures["gates"] == {"accuracy_min": False, "slow_share_max": False}
    assert figures["errors"] == {"HTTP 500": 6}
    assert "accuracy" not in figures


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no service", "does not answer"),
        ("not ready", "is not ready: loading"),
        ("another service", "does not answer (ValidationError)"),
        ("no folder", "There is no folder"),
        ("no photos", "has no labelled photos"),
        ("other class", "A photo is labelled 'bird'"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_with_its_cause(
    case: str, words: str, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with the cause and the next step, and no report."""
    folder = tmp_path / "none" if case in ("no folder", "no photos") else labelled
    if case == "no photos":
        folder.mkdir()
    if case == "other class":
        (labelled / "Cat").rename(labelled / "bird")
    health, ours = 503 if case == "not ready" else 200, case != "another service"
    with service(lambda _: predicted(0.9), health, ours=ours) as url:
        address = "http://127.0.0.1:9" if case == "no service" else url
        status, figures = evaluate(address, folder, tmp_path, "{accuracy_min: 0.5}")
    assert (status, figures) == (2, {})
    assert words in capsys.readouterr().err


def test_a_table_names_photos_and_labels(labelled: Path, tmp_path: Path):
    """A CSV works like folders; its paths are relative to it."""
    rows = [f"Cat/{n}.jpg,cat" for n in range(3)] + [f"dog/{n}.jpg,Dog" for n in range(3)]
    table = labelled / "labels.csv"
    table.write_text("\n".join(["path,label", *rows]))
    with service(lambda n: predicted(0.9 if n < 3 else 0.2)) as url:
        status, figures = evaluate(url, table, tmp_path, "{accuracy_min: 0.6}")
    assert (status, figures["photos"]) == (0, 6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\n1.jpg,cat", "must have the columns path and label"),
        ("path,label\nnone.jpg,cat", "names .*none.jpg, which does not exist"),
        ("path,label\n", "names no photo"),
        ('"', "is not a table"),
    ],
)
def test_a_wrong_table_is_an_error_with_its_cause(tmp_path: Path, text: str, words: str):
    """With its cause."""
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(PhotosError, match=words):
        find_labelled(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("hits", "n", "outcome"), [(200, 200, "PASS"), (99, 100, "TOO_FEW"), (180, 200, "FAIL"), (0, 0, "FAIL")]
)
def test_accuracy_is_compared_with_the_test_splits(hits: int, n: int, outcome: str):
    """Against 2,310 of 2,330 right on test; the verdict claims no more than the number of photos allows."""
    limits = gates.read_gates("live", Live, tiny.ROOT / "configs/gates.yaml").limits
    gate = gates.Gates({"difference_to_test_min": limits["difference_to_test_min"]})
    replies = [
        Reply(Path(), "cat", predicted(0.9 if k < hits else 0.1)[1]["probabilities"], "", 9, 1)
        for k in range(n)
    ]
    health = Health(metrics={"accuracy": wilson(2310, 2330)})
    (verdict,) = gate.judge(summarise(health, replies or [Reply(Path(), "cat", None, "HTTP 500", 9, 1)], 1.0))
    assert verdict.outcome.name == outcome


def test_a_comparison_of_nothing_does_not_pass(model: Path):
    """If no photo was answered, no answer differs from the offline handler's; that is no agreement."""
    found = compare_offline(model, Health(), [Reply(Path(), "cat", None, "HTTP 500", 9, 1)])
    verdicts = gates.read_gates("consistency", Consistency, tiny.ROOT / "configs/gates.yaml").judge(found)
    assert set(gates.by_name(verdicts).values()) == {False}


@pytest.fixture(scope="module")
def served(model: Path, environment: Callable[..., dict[str, str]]) -> Iterator[str]:
    """The URL of a real service with the tiny model."""
    with processes.service(environment(MODEL=str(model))) as process:
        process.wait_for("ready")
        yield process.url


@pytest.mark.parametrize("expected", ["the served model", "another model"])
def test_answers_are_those_of_the_offline_handler(
    expected: str, served: str, model: Path, labelled: Path, tmp_path: Path
):
    """The same file gives identical probabilities; another file is noticed by hash and probabilities."""
    file = model if expected == "the served model" else tiny.write_artifact(tmp_path / "other.pt", seed=2)
    (tmp_path / "gates.yaml").write_text(
        "live: {failed_share_max: 0}\nconsistency: {same_model_min: 1, times_allowed_max: 1}"
    )
    arguments = ["--url", served, "--labelled", str(labelled), "--model", str(file)]
    status = main(
        ["live", *arguments, "--out", str(tmp_path / "out"), "--gates", str(tmp_path / "gates.yaml")]
    )
    figures = json.loads((tmp_path / "out/live.json").read_text())
    same = figures["consistency"]
    if expected == "the served model":
        assert (status, same["same_model"], same["largest_difference"]) == (0, 1.0, 0.0)
    else:
        assert (status, same["same_model"]) == (1, 0.0)
        assert same["largest_difference"] > 1e-4
    assert figures["service_ms"].keys() == {"queue", "decode", "infer"}
    assert figures["against_test"]["test_n"] == 100


def test_the_report_holds_its_pictures_and_escapes_what_it_shows(labelled: Path, tmp_path: Path):
    """One file without outside addresses; a hostile error type is shown as text."""
    hostile = 500, {"type": "<script>alert(1)</script>"}, {}
    with service(lambda n: hostile if n == 0 else predicted(0.9)) as url:
        evaluate(url, labelled, tmp_path, "{failed_share_max: 1}")
    text = (tmp_path / "out/report.html").read_text()
    assert text.count('src="data:image/png;base64,') == 4
    assert "&lt;script&gt;" in text
    assert not re.search(r"<script|(src|href)=\"http", text)


def test_the_api_key_of_the_environment_is_sent(
    model: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: Callable[..., dict[str, str]],
):
    """A service with a key is evaluated with it, and refuses every photo without."""
    monkeypatch.setenv("SERVING_API_KEY", "secret")
    for number, photo in enumerate(sorted(labelled.rglob("*.jpg"))):
        photo.write_bytes(encode(scene(100 + number, 80)))
    gates = tmp_path / "gates.yaml"
    gates.write_text("live: {failed_share_max: 0.0}")
    with processes.service(environment(MODEL=str(model), SERVING_API_KEY="secret")) as process:
        process.wait_for("ready")
        arguments = ["live", "--url", process.url, "--labelled", str(labelled), "--gates", str(gates)]
        assert main([*arguments, "--out", str(tmp_path / "with")]) == 0
        monkeypatch.delenv("SERVING_API_KEY")
        assert main([*arguments, "--out", str(tmp_path / "without")]) == 1
        monkeypatch.setenv("SERVING_API_KEY_FILE", str(tmp_path / "key"))
        assert main([*arguments, "--out", str(tmp_path / "unreadable")]) == 2
        (tmp_path / "key").write_text("secret\nold\n")
        assert main([*arguments, "--out", str(tmp_path / "with-file")]) == 0
    assert "unauthorized" in (tmp_path / "without/live.json").read_text()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".mpo"])
def test_photos_of_phones_and_old_tools_are_found(suffix: str, tmp_path: Path):
    """A class whose photos are named so must not be left out."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"1{suffix if label == 'dog' else '.jpg'}").write_bytes(b"x")
    assert [label for _, label in find_labelled(tmp_path)] == ["cat", "dog"]
