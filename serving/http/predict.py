"""`POST /predict`: a photo in, its `Prediction` or a problem out; or several, and a list of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from litestar import Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter
from litestar.types import Receive, Scope, Send

from serving.http import problems
from serving.http.answers import server_timing
from serving.http.authorisation import check_key, require_key
from serving.http.classify import Model, Prediction, classify, classify_all, refuse
from serving.http.kinds import KINDS
from serving.http.openapi import KEY, PhotosOperation
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling

Top = Annotated[
    int | None,
    QueryParameter(ge=1, description="List the probabilities of so many labels, the most probable first."),
]

PATH: Final = "/predict"
_OTHER_ROUTES: Final = frozenset(
    {
        *("malformed-feedback", "unknown-request", "unknown-label", "feedback-off", "feedback-unavailable"),
        *("not-explainable", "not-found", "method-not-allowed", "uri-too-long", "head-too-large"),
        *("head-timeout", "http-version", "cross-origin", "review-off", "review-unavailable"),
        *("malformed-review", "unknown-photo", "nothing-to-undo"),
    }
)
OUTCOMES: Final = ("ok", *(code for code in KINDS if code not in _OTHER_ROUTES))
"""What becomes of a request to /predict: an answer, or one of these problems."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answer to `POST /predict` with several photos; no struct, for msgspec knows no union of structs."""

    predictions: list[Prediction | Problem]
    """For each photo, in order, its prediction, or the problem that it has."""


EXAMPLE: Final = Prediction(
    prediction="cat",
    probability=0.9995,
    probabilities={"cat": 0.9995, "dog": 0.0005},
    uncertain=False,
    unfamiliar=False,
    latency_ms=15.1,
    model=Model("cats-dogs", "2026.11.27-0ace1447"),
    request_id=problems.EXAMPLE_ID,
)
"""The released model's answer to `deploy/smoke/cat.jpg`, as a test checks."""


@post(
    PATH,
    status_code=200,
    guards=[require_key],
    exception_handlers=handling(Exception, refuse),
    operation_class=PhotosOperation,
    operation_id="predict",
    security=KEY,
    responses={
        200: ResponseSpec(
            Prediction | Predictions,  # type: ignore[arg-type]  # Litestar describes a union too
            generate_examples=False,
            description="The prediction; for several photos, a list.",
            examples=[Example(id="cat", value=msgspec.to_builtins(EXAMPLE))],
        ),
        **problems.documented((400, 401, 408, 413, 415, 422, 500, 503, 504)),
    },
)
async def predict(request: ServiceRequest, top: Top = None) -> Response[Prediction | Predictions]:
    """Classify one photo: multipart field `file`, or the encoded image as the body.

    Several fields `file`, or the JSON `{"instances": [{"b64": "…"}]}`, are answered with a list, in order.
    """
    answer, headers = await _answer(request, top)
    return Response(answer, headers=headers)


async def predict_directly(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `POST /predict` without a query, as `predict` does, but past Litestar's layers.

    They take a third of what the event loop does for a request (`docs/decisions.md`), and a photo waits for
    the event loop twice. `serving.http.gate` calls it.
    """
    scope["path_template"] = PATH
    request = ServiceRequest(scope, receive, send)
    try:
        check_key(request)
        answer, timing = await _answer(request)
    except Exception as error:  # noqa: BLE001 (it is answered, counted and logged)
        refusal = refuse(request, error).to_asgi_response(app=None, request=request)
        await refusal(scope, receive, send)
        return
    body = msgspec.json.encode(answer)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode()) for name, value in timing.items()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _answer(
    request: ServiceRequest, top: int | None = None
) -> tuple[Prediction | Predictions, dict[str, str]]:
    """The answer to a request, and the headers that belong to it."""
    photos, arrived = await request.photos()
    if photos.listed:
        return Predictions(await classify_all(request, photos.encoded, arrived, top)), {}
    prediction, seconds = await classify(request, photos.encoded[0], arrived, top)
    return prediction, {"Server-Timing": server_timing(seconds)}
