"""Each route and each error of the contract, through the whole application."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import re
import shutil
import threading
import time
from pathlib import Path

import msgspec
import pytest
import structlog
from litestar.testing import AsyncTestClient
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serving.contract.reference import DriftReport, WindowReport
from serving.http import feedback, operations, predict
from serving.http.app import create_app
from serving.http.kinds import KINDS
from serving.runtime.handler import ImageClassifierHandler
from serving.settings import Settings
from serving.telemetry.metrics import MetricsSummary
from tests import tiny
from tests.conftest import Client, running
from tests.pictures import encode, scene

JPEG = encode(scene())


def problem(response) -> dict[str, object]:
    """The problem details of an error answer, checked for their form."""
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert set(content) == {"type", "title", "status", "detail", "request_id"}
    assert content["status"] == response.status_code
    assert content["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in content["detail"]
    return content


def value(client: Client, name: str, **labels: str) -> float:
    """A sample of /metrics, 0 if it is absent."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels.items() >= labels.items():
                return sample.value
    return 0.0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_photo_is_answered_as_form_and_as_body(client: Client, form: str):
    """The two ways to send one photo give one answer, complete and consistent."""
    photo = encode(scene(), form)
    answers = [
        client.post("/predict", files={"file": ("dog.jpg", photo)}),
        client.post("/predict", content=photo, headers={"Content-Type": "application/octet-stream"}),
        client.post("/predict", content=photo),
    ]
    for response in answers:
        assert response.status_code == 200
        content = response.json()
        assert set(content) == {
            *("prediction", "probability", "probabilities", "uncertain", "unfamiliar", "latency_ms", "model"),
            "request_id",
        }
        assert content["probabilities"] == answers[0].json()["probabilities"]
        assert content["probability"] == content["probabilities"][content["prediction"]]
        assert content["uncertain"] == (content["probability"] < 0.8)
        assert content["model"] == {"name": "tiny", "version": "1"}
        assert re.fullmatch(
            r"queue;dur=[\d.]+, decode;dur=[\d.]+, infer;dur=[\d.]+", response.headers["server-timing"]
        )


FAULTS = {
    "missing-file": (400, {"content": b""}),
    "malformed-upload": (
        400,
        {"content": b"--x\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ),
    "body-too-large": (413, {"content": bytes(1_000_001)}),
    "image-too-large": (413, {"content": encode(scene(4001, 10), "PNG")}),
    "unsupported-image": (415, {"files": {"file": ("dog.jpg", b"not a photo")}}),
    "empty": (422, {"files": {"file": ("dog.jpg", b"")}}),
    "broken-image": (422, {"files": {"file": ("dog.jpg", JPEG[:-300])}}),
}


@pytest.mark.parametrize("code", FAULTS)
def test_each_fault_of_a_request_has_its_own_problem(client: Client, code: str):
    """Status, stable type and a sentence; and it is counted under its code."""
    status, request = FAULTS[code]
    before = value(client, "classifier_requests_total", outcome=code)
    response = client.post("/predict", **request)
    assert response.status_code == status
    assert problem(response)["type"] == f"/problems/{code}"
    assert value(client, "classifier_requests_total", outcome=code) == before + 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"files": {"photo": ("dog.jpg", JPEG)}}, 400),
        ({"data": {"file": "text"}}, 415),
        ({"content": JPEG, "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": JPEG, "headers": {"Content-Type": "multipart/form-data; boundary="}}, 400),
        ({"content": JPEG, "headers": {"Content-Type": "no/such; thing=\x07"}}, 200),
        ({"files": [("file", ("a.jpg", JPEG))] * 17}, 413),
        ({"files": [("file", ("a.jpg", JPEG)), ("file", ("b.jpg", b"second"))]}, 200),
    ],
    ids=["other-field", "form", "no-boundary", "empty-boundary", "odd-type", "17-parts", "twice"],
)
def test_unusual_uploads_are_answered(client: Client, request_: dict[str, object], status: int):
    """None of them makes the service fail; of a repeated field, the first counts."""
    response = client.post("/predict", **request_)
    assert response.status_code == status
    if status != 200:
        problem(response)


def test_the_problem_with_a_missing_field_names_what_came(client: Client):
    """So that a client sees a misspelt field."""
    response = client.post("/predict", files={"image": ("dog.jpg", JPEG)})
    assert "'image'" in problem(response)["detail"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/nothing", 404)])
def test_wrong_addresses_are_problems_too(client: Client, method: str, path: str, status: int):
    """404 and 405 have the same form, and 405 names what is allowed."""
    response = client.request(method, path)
    assert response.status_code == status
    problem(response)
    if status == 405:
        assert "POST" in response.headers["allow"]


def test_a_request_id_is_adopted_or_generated(client: Client):
    """A plain token comes back; one that could split a log line or header, or hide a file, does not."""
    assert (
        client.post("/predict", content=JPEG, headers={"X-Request-ID": "abc-1"}).json()["request_id"]
        == "abc-1"
    )
    for odd in ("a b", "x" * 65, "a;b", ".hidden"):
        given = client.post("/predict", content=JPEG, headers={"X-Request-ID": odd}).json()["request_id"]
        assert re.fullmatch("[0-9a-f]{32}", given)


def test_one_line_is_logged_for_a_prediction_and_never_the_photo(client: Client):
    """Outcome, answer and stage times under the request's id; no bytes, no file name."""
    with structlog.testing.capture_logs() as lines:
        client.post("/predict", files={"file": ("secret.jpg", JPEG)}, headers={"X-Request-ID": "one"})
        client.post("/predict", content=b"nonsense", headers={"X-Request-ID": "two"})
    one, two = lines
    assert one["event"] == "predicted"
    assert one.keys() >= {
        *("request_id", "outcome", "prediction", "probability", "uncertain"),
        *("latency_ms", "queue_ms", "decode_ms", "infer_ms"),
    }
    assert (two["request_id"], two["outcome"]) == ("two", "unsupported-image")
    assert "secret" not in json.dumps(lines)
    assert all(len(json.dumps(line)) < 500 for line in lines)


def test_a_refusal_is_logged_under_the_id_that_the_client_gets(client: Client):
    """Even if the client sent none, and although the exception handler gets another request object."""
    with structlog.testing.capture_logs() as lines:
        answers = [client.post("/predict", content=content) for content in (b"nonsense", b"")]
    assert [line["request_id"] for line in lines] == [answer.json()["request_id"] for answer in answers]
    assert "decode;dur=" in answers[0].headers["server-timing"]
    assert lines[0]["decode_ms"] > 0


def test_health_names_model_and_lineage(client: Client):
    """What an operator asks first: which model is this, and where does it come from?"""
    content = client.get("/health").json()
    assert content["status"] == "ok"
    assert content["model"].keys() == {"name", "version", "sha256"}
    assert content["lineage"].keys() == {"git_commit", "data_hash", "mlflow_run_id", "libraries"}
    assert content["uptime_seconds"] > 0
    assert client.get("/health/ready").status_code == client.get("/health/live").status_code == 200


def test_metrics_parse_in_all_their_forms(client: Client):
    """Prometheus text, OpenMetrics and the JSON summary agree."""
    client.post("/predict", content=JPEG)
    text = client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(text.text)}
    assert names >= {
        *("classifier_requests", "classifier_request_duration_seconds", "classifier_stage_duration_seconds"),
        *("classifier_queue_depth", "classifier_in_flight", "classifier_rejected", "classifier_predictions"),
        *("classifier_prediction_probability", "classifier_predictions_uncertain", "classifier_ready"),
        *("classifier_input_size_bytes", "classifier_input_brightness_ratio", "classifier_model_info"),
        *("process_resident_memory_bytes", "process_cpu_seconds"),
    }
    open_metrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert list(parse_openmetrics(open_metrics.text))
    summary = client.get("/metrics", headers={"Accept": "application/json"}).json()
    assert summary["outcomes"]["ok"] == value(client, "classifier_requests_total", outcome="ok")
    assert summary["request_count"] == sum(summary["outcomes"].values())
    assert summary["average_latency_ms"] > 0


def test_a_prediction_is_counted_once_everywhere(client: Client):
    """Requests, predictions, stages and input figures move by one."""
    names = {
        "classifier_requests_total": {"outcome": "ok"},
        "classifier_request_duration_seconds_count": {},
        "classifier_stage_duration_seconds_count": {"stage": "infer"},
        "classifier_input_brightness_ratio_count": {},
        "classifier_prediction_probability_count": {},
    }
    before = {name: value(client, name, **labels) for name, labels in names.items()}
    label = client.post("/predict", content=JPEG).json()["prediction"]
    for name, labels in names.items():
        assert value(client, name, **labels) == before[name] + 1, name
    assert value(client, "classifier_predictions_total", label=label) >= 1


def test_the_examples_of_faults_are_real_answers(client: Client, model: Path):
    """What the description shows for the commonest errors is what the service answers, word for word."""
    broken = encode(scene())
    with running(Settings(model=str(model), workers=1, api_key="secret")) as guarded:
        replies = [
            guarded.post("/predict", content=broken),
            client.post("/predict", files={"other": ("x.jpg", broken)}),
            client.post("/predict", content=b"not an image at all"),
            client.post("/predict", files={"file": ("x.jpg", b"")}),
            client.post("/predict", content=broken[: len(broken) // 2]),
            client.post("/feedback", json={"request_id": "x", "label": "cat"}),
            client.post("/predict", content=broken, headers={"Content-Encoding": "gzip"}),
        ]
    answered = {reply.json()["type"].removeprefix("/problems/"): reply.json() for reply in replies}
    assert {code: problem["detail"] for code, problem in answered.items()} == {
        code: kind.example for code, kind in KINDS.items() if kind.example
    }
    paths = client.get("/schema/openapi.json").json()["paths"]
    for code, problem in answered.items():
        path = "/feedback" if code == "feedback-off" else "/predict"
        content = paths[path]["post"]["responses"][str(problem["status"])]["content"]
        shown = content["application/problem+json"]["examples"][code]["value"]
        assert shown | {"request_id": ""} == problem | {"request_id": ""}


def test_the_openapi_description_covers_predict_and_its_faults(client: Client):
    """What a client generator needs: both bodies, the answer, each status."""
    schema = client.get("/schema/openapi.json").json()
    operation = schema["paths"]["/predict"]["post"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert set(operation["responses"]) >= {"200", "400", "413", "415", "422", "503", "504"}


@pytest.mark.parametrize(
    ("path", "struct"),
    [
        ("/predict", predict.Prediction),
        ("/feedback", feedback.FeedbackReceipt),
        ("/health", operations.HealthReport),
        ("/health/live", operations.LivenessReport),
        ("/metrics", MetricsSummary),
        ("/drift", DriftReport),
        ("/drift/window", WindowReport),
    ],
)
def test_each_answer_is_described_by_the_struct_that_it_is_made_of(
    client: Client, path: str, struct: type[msgspec.Struct]
):
    """There is no second copy of its fields."""
    schema = client.get("/schema/openapi.json").json()
    (operation,) = schema["paths"][path].values()
    described = operation["responses"]["200"]["content"]["application/json"]["schema"]
    described = described.get("oneOf", [described])[0]  # of /predict, the other is the list of several
    assert described == {"$ref": f"#/components/schemas/{struct.__name__}"}
    assert list(schema["components"]["schemas"][struct.__name__]["properties"]) == [*struct.__struct_fields__]


def test_every_code_has_a_status():
    """No code of the errors module can turn into a 500 by omission."""
    from serving.contract import errors

    kinds = [errors.EmptyImage, errors.UnsupportedImage, errors.BrokenImage, errors.ImageTooLarge]
    kinds += [errors.Overloaded, errors.DeadlineExceeded, errors.NotReady]
    assert all(KINDS[kind.code].status != 500 for kind in kinds)


def test_before_the_model_is_ready_the_answer_is_503(model: Path, monkeypatch: pytest.MonkeyPatch):
    """`/health` says starting, `/predict` is refused as not ready, liveness holds."""
    go = threading.Event()
    initialize = ImageClassifierHandler.initialize

    def slow(self: ImageClassifierHandler, context: object) -> None:
        go.wait(20)
        initialize(self, context)

    monkeypatch.setattr(ImageClassifierHandler, "initialize", slow)
    with running(Settings(model=str(model)), until="starting") as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        refused = client.post("/predict", content=JPEG)
        assert refused.status_code == 503
        assert problem(refused)["type"] == "/problems/not-ready"
        assert client.get("/health/live").status_code == 200
        assert value(client, "classifier_ready") == 0
        go.set()
        while client.get("/health").status_code != 200:
            time.sleep(0.01)
        assert value(client, "classifier_ready") == 1


def test_a_model_that_fails_verification_never_serves(tmp_path: Path):
    """The state is failed, with the reason, and `on_failure` is called."""
    reported = threading.Event()
    settings = Settings(model=str(tmp_path / "none.pt"))
    with running(settings, until="failed", on_failure=reported.set) as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert "no model at" in health.json()["reason"]
        assert client.post("/predict", content=JPEG).status_code == 503
    assert reported.is_set()


def test_an_internal_error_is_a_500_that_reveals_nothing(client: Client, monkeypatch: pytest.MonkeyPatch):
    """The exception goes to the log with its trace, and not to the client; the worker survives."""

    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
        patch.setattr(ImageClassifierHandler, "inference", broken)
        response = client.post("/predict", content=JPEG)
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert problem(response)["type"] == "/problems/internal"
    assert lines[0]["exc_info"]
    assert client.post("/predict", content=JPEG).status_code == 200


def test_a_trace_context_is_passed_to_the_log(client: Client):
    """A valid W3C traceparent gives trace and span; an invalid one nothing."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    valid = [f"00-{trace}-{span}-01", f"00-{trace}-{span}-00", f"01-{trace}-{span}-01-more"]
    invalid = [
        f"00-{trace}-{span}-01-more",
        f"00-{trace}-{span}-01-",
        f"ff-{trace}-{span}-01",
        f"00-{trace.upper()}-{span}-01",
        f"00-{'0' * 32}-{span}-01",
        f"00-{trace}-{'0' * 16}-01",
        "rubbish",
    ]
    with structlog.testing.capture_logs() as lines:
        for header in (*valid, *invalid):
            client.post("/predict", content=JPEG, headers={"traceparent": header})
    known = {"trace_id": trace, "parent_span_id": span}
    found = [{key: line[key] for key in known if key in line} for line in lines]
    assert found == [known] * len(valid) + [{}] * len(invalid)


def test_with_a_key_set_requests_need_it(model: Path):
    """Either header carries it; without it the answer is 401; health, liveness and the page stay open."""
    with running(Settings(model=str(model), api_key="s3cret")) as client:
        for headers in (
            {},
            {"X-API-Key": "wrong"},
            {"Authorization": "Bearer "},
            {"Authorization": "s3cret"},
        ):
            refused = client.post("/predict", content=JPEG, headers=headers)
            assert refused.status_code == 401
            assert problem(refused)["type"] == "/problems/unauthorized"
            assert refused.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
        for headers in ({"X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}):
            assert client.post("/predict", content=JPEG, headers=headers).status_code == 200
        assert [client.get(path).status_code for path in ("/health", "/health/live", "/")] == [200] * 3


def test_another_model_is_swapped_in_and_a_bad_one_is_not(model: Path, tmp_path: Path):
    """A verified file replaces the current model; a damaged one does not, and the service stays ready."""
    path = tmp_path / "model.pt"
    shutil.copy(model, path)
    app = create_app(Settings(model=str(path)))
    service = app.state.service

    async def play() -> None:
        async with AsyncTestClient(app) as client:
            while service.lifecycle.state != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            first = (await client.get("/health")).json()["model"]["sha256"]
            before = (await client.post("/predict", content=JPEG)).json()["probabilities"]
            path.write_bytes(b"damaged")
            assert not await service.models.reload()
            assert (await client.get("/health")).json()["model"]["sha256"] == first
            tiny.write_artifact(path, seed=2)
            assert await service.models.reload()
            assert (await client.get("/health")).json()["model"]["sha256"] != first
            after = await client.post("/predict", content=JPEG)
            assert after.json()["probabilities"] != before
            text = (await client.get("/metrics")).text
        for outcome in ("ok", "failed"):
            assert f'classifier_model_reloads_total{{outcome="{outcome}"}} 1.0' in text

    asyncio.run(play())


def test_a_heat_map_is_a_png_in_the_photo_s_shape(client: Client):
    """`/explain` answers with the photo's proportions and names the label it explains."""
    photo = encode(scene(300, 150))
    response = client.post("/explain", files={"file": photo})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-prediction"] == client.post("/predict", content=photo).json()["prediction"]
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.size == (448, 224)


def test_a_heat_map_of_no_photo_is_refused(client: Client):
    """The same problems as `/predict`."""
    response = client.post("/explain", content=b"no photo")
    assert response.status_code == 415
    assert response.json()["type"] == "/problems/unsupported-image"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/json;q=0.1, text/plain", "text/plain"),
        ("text/plain;q=0.5, application/json", "application/json"),
        ("*/*", "text/plain"),
        ("application/*", "text/plain"),
        ("application/json;q=nan", "text/plain"),
        ("image/png", "text/plain"),
        (
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                "text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
            ),
            "application/openmetrics-text",
        ),
        (",".join(["application/json;q=0"] * 10_000), "text/plain"),
    ],
)
def test_the_form_of_the_metrics_is_what_the_client_prefers(client: Client, accept: str, kind: str):
    """By quality and specificity; where nothing fits, text, since a scraper can use nothing else."""
    reply = client.get("/metrics", headers={"Accept": accept})
    assert reply.headers["content-type"].startswith(kind)


def test_the_type_of_a_problem_leads_to_its_description(client: Client):
    """On the service itself, so that it works without a network."""
    kind = client.post("/predict", content=b"").json()["type"]
    page = client.get(kind)
    assert page.status_code == 200
    assert "No image was sent" in page.text
    assert client.get("/problems/none").status_code == 404
    assert all(client.get(f"/problems/{code}").status_code == 200 for code in KINDS)


def test_a_refusal_on_the_page_has_the_headers_of_one_of_the_api(model: Path):
    """A browser without JavaScript, and whoever reads its log, needs them too."""
    with running(Settings(model=str(model), api_key="secret")) as client:
        refused = client.post("/", files={"file": JPEG}, headers={"X-Request-ID": "mine"})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["x-request-id"] == "mine"
        assert refused.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "path", ["/", "/health", "/metrics", "/schema", "/schema/openapi.json", "/web/app.js", "/x"]
)
def test_every_answer_tells_the_browser_not_to_guess_and_not_to_frame(client: Client, path: str):
    """And it has an id."""
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])


def test_the_description_says_who_needs_a_key_and_which_headers_come(client: Client):
    """So that generated clients can send and read them."""
    description = client.get("/schema/openapi.json").json()
    schemes = description["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    operations = {
        (path, method): operation
        for path, item in description["paths"].items()
        for method, operation in item.items()
    }
    guarded = {path for (path, _), operation in operations.items() if operation.get("security")}
    assert guarded == {
        *("/predict", "/explain", "/feedback", "/metrics", "/drift", "/drift/window", "/status/minutes"),
        *("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"),
        *("/review/next", "/review/verdicts", "/review/undo", "/review/progress"),
        *("/review/photos/{request_id}", "/review/export"),
    }
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    assert {"predict", "explain", "sendFeedback", "getHealth", "getMetrics"} <= set(names)
    answers = operations["/predict", "post"]["responses"]
    assert {"X-Request-ID", "Server-Timing"} <= answers["200"]["headers"].keys()
    assert "Retry-After" in answers["503"]["headers"]
    assert "WWW-Authenticate" in answers["401"]["headers"]


@pytest.mark.parametrize("key", ["k\u00e9", "\u732b".encode(), "x" * 20_000, ""])
def test_odd_keys_are_refused_and_nothing_worse(model: Path, key: str | bytes):
    """Whatever bytes a client puts into the header."""
    with running(Settings(model=str(model), api_key="secret")) as client:
        value = key.encode("latin-1") if isinstance(key, str) else key
        for header in ({"X-API-Key": value}, {"Authorization": b"Bearer " + value}):
            assert client.get("/metrics", headers=header).status_code == 401


def test_each_of_several_keys_is_valid(model: Path):
    """So that callers can change to a new one before the old one goes."""
    with running(Settings(model=str(model), api_key="new,old")) as client:
        for key, status in (("new", 200), ("old", 200), ("new,old", 401), ("ne", 401)):
            assert client.get("/metrics", headers={"X-API-Key": key}).status_code == status


def test_a_garbage_collection_does_not_look_at_what_was_there_at_the_start(model: Path):
    """All the objects of torch and its libraries: a full collection of them would hold up every request."""
    with running(Settings(model=str(model))):
        assert gc.get_freeze_count() > len(gc.get_objects())


def test_a_thousand_classes_are_neither_as_many_fields_nor_as_many_series(tmp_path: Path):
    """`top` bounds the answer, the page names a few, and the metrics count the later labels together."""
    labels = tuple(f"class {number}" for number in range(1000))
    path = tiny.write_artifact(tmp_path / "model.pt", labels=labels)
    with running(Settings(model=str(path))) as client:
        every = client.post("/predict", content=JPEG).json()["probabilities"]
        few = client.post("/predict?top=3", content=JPEG).json()
        assert list(every) == list(labels)
        best = sorted(every.items(), key=lambda item: -item[1])[:3]
        assert list(few["probabilities"].items()) == best
        assert few["prediction"] == best[0][0]
        assert len(client.post("/predict?top=5000", content=JPEG).json()["probabilities"]) == 1000
        assert client.get("/").text.count("class ") < 20
        assert client.post("/", files={"file": JPEG}).text.count("<meter") == 5
        counted = [s for f in text_string_to_metric_families(client.get("/metrics").text) for s in f.samples]
        series = {s.labels["label"]: s.value for s in counted if s.name == "classifier_predictions_total"}
        assert len(series) == 101
        assert sum(series.values()) == 4


@pytest.mark.parametrize("top", ["0", "-1", "x", "1.5", ""])
def test_a_top_that_is_no_number_of_labels_is_named(client: Client, top: str):
    """The detail says which parameter is wrong."""
    reply = client.post(f"/predict?top={top}", content=JPEG)
    assert reply.status_code == 400
    assert reply.json()["type"] == "/problems/bad-request"
    assert reply.json()["detail"].startswith("top: ")
