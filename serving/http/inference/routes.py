"""The Open Inference Protocol, version 2, over HTTP: `/v2`, alongside `/predict` and with the same answers.

`serving.http.inference.tensors` reads and writes the bodies; admission, deadline, metrics and log are those
of `serving.http.classify`. An error is `{"error": "…"}`, as the protocol has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from litestar import MediaType, Response, Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter

from serving.contract.card import Card
from serving.contract.errors import NotReady, ServingError
from serving.http import answers, problems
from serving.http.authorisation import require_key
from serving.http.classify import Model, Prediction, classify_all, refuse
from serving.http.inference import tensors
from serving.http.inference.records import (
    InferenceError,
    InferenceResponse,
    InferOperation,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    Tensor,
)
from serving.http.openapi import KEY
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling
from serving.http.sinks import Whole
from serving.lifecycle import State

Name = Annotated[str, PathParameter(min_length=1, description="The model's, as `GET /health` shows it.")]
Version = Annotated[str | None, PathParameter(min_length=1, description="The model's.")]
PREFIX: Final = "/v2"
_JSON_BYTES: Final = "Inference-Header-Content-Length"
_PLATFORMS: Final = {".pt": "pytorch_torchscript", ".onnx": "onnxruntime_onnx"}
_VARIABLE: Final = -1
_MOST_DIGITS: Final = 12
_MODEL: Final = ["/models/{name:str}", "/models/{name:str}/versions/{version:str}"]


class UnknownModel(ServingError):
    """The address names another model, or another version, than the one that is served."""

    code = "unknown-model"


def _error_of(answer: Response[Problem]) -> Response[InferenceError]:
    """The error of the protocol that says what a problem says."""
    headers = dict(answer.headers)
    return Response(InferenceError(answer.content.detail), status_code=answer.status_code, headers=headers)


def answer_error(request: ServiceRequest, error: Exception) -> Response[InferenceError]:
    """Answer an exception that no route handled, in the protocol's form."""
    return _error_of(answers.answer_error(request, error))


def _refuse(request: ServiceRequest, error: Exception) -> Response[InferenceError]:
    return _error_of(refuse(request, error))


def _errors(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(InferenceError, generate_examples=False, description=spec.description)
        for status, spec in problems.documented(statuses).items()
    }


@get("/", operation_id="getServerMetadata")
async def server() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata("image-classifier", "1", ["binary_tensor_data"])


@get(
    "/health/live", operation_id="getServerLive", responses={503: ResponseSpec(Live, generate_examples=False)}
)
async def live(request: ServiceRequest) -> Response[Live]:
    """Whether the process works, as `/health/live`."""
    service = request.service
    is_live = service.engine.stalled_seconds() <= service.settings.stuck_seconds
    return Response(Live(is_live), status_code=200 if is_live else 503)


@get(
    "/health/ready",
    operation_id="getServerReady",
    responses={503: ResponseSpec(Ready, generate_examples=False)},
)
async def ready(request: ServiceRequest) -> Response[Ready]:
    """Whether the service accepts requests, as `/health/ready`."""
    is_ready = _is_ready(request)
    return Response(Ready(is_ready), status_code=200 if is_ready else 503)


def _is_ready(request: ServiceRequest) -> bool:
    service = request.service
    return service.lifecycle.state is State.READY and not service.engine.stalled_seconds()


def _operation(name: str, path: Sequence[object]) -> str:
    """The name of an operation that has one address with a version and one without."""
    return name + ("OfVersion" if "versions" in path else "")


@get(
    _MODEL,
    operation_id=lambda _handler, _method, path: _operation("getModelMetadata", path),
    responses=_errors(400, 404, 503),
)
async def model(request: ServiceRequest, name: Name, version: Version = None) -> ModelMetadata:
    """The tensors of the model."""
    card = _card(request, name, version)
    outputs = [Tensor(output, tensors.OUTPUTS[output], [_VARIABLE]) for output in _outputs(card)[1:]]
    probabilities = Tensor("probabilities", "FP32", [_VARIABLE, len(card.labels)], {"labels": card.labels})
    return ModelMetadata(
        card.name,
        [card.version],
        _PLATFORMS.get(request.service.settings.model_path.suffix, ""),
        [Tensor(tensors.INPUT, "BYTES", [_VARIABLE])],
        [probabilities, *outputs],
    )


@get(
    [path + "/ready" for path in _MODEL],
    operation_id=lambda _handler, _method, path: _operation("getModelReady", path),
    responses={503: ResponseSpec(ModelReady, generate_examples=False), **_errors(400, 404)},
)
async def model_ready(request: ServiceRequest, name: Name, version: Version = None) -> Response[ModelReady]:
    """Whether the model answers."""
    if request.service.models.card:
        _card(request, name, version)
    is_ready = _is_ready(request)
    return Response(ModelReady(name, is_ready), status_code=200 if is_ready else 503)


@post(
    [path + "/infer" for path in _MODEL],
    status_code=200,
    guards=[require_key],
    exception_handlers=handling(Exception, _refuse),
    operation_class=InferOperation,
    operation_id=lambda _handler, _method, path: _operation("infer", path),
    security=KEY,
    responses={
        200: ResponseSpec(InferenceResponse, generate_examples=False, description="The outputs."),
        **_errors(400, 401, 404, 408, 413, 415, 422, 500, 503, 504),
    },
)
async def infer(
    request: ServiceRequest, name: Name, version: Version = None
) -> Response[bytes] | Response[InferenceError]:
    """Classify the photos of one tensor; if one of them is refused, the error says which."""
    most_photos = request.service.settings.max_parts
    body = await request.read(Whole(), request.service.settings.max_body_bytes)
    available = _outputs(_card(request, name, version))
    asked = tensors.read(body, _json_bytes(request), most_photos, available)
    arrived = request.arrived(sum(map(len, asked.photos)))
    del body
    answered = await classify_all(request, asked.photos, arrived)
    refused = {number: answer for number, answer in enumerate(answered, 1) if isinstance(answer, Problem)}
    if refused:
        return _partly_refused(refused, len(answered))
    predictions = [answer for answer in answered if isinstance(answer, Prediction)]
    served = _model_of(predictions)
    head = {"model_name": served.name, "model_version": served.version, "id": asked.id or request.id}
    content, json_bytes = tensors.write(head, asked, available, predictions)
    if json_bytes is None:
        return Response(content, media_type=MediaType.JSON)
    return Response(content, media_type="application/octet-stream", headers={_JSON_BYTES: str(json_bytes)})


def _partly_refused(refused: dict[int, Problem], count: int) -> Response[InferenceError]:
    """The protocol has one error for all photos: it names each that was refused."""
    first = next(iter(refused.values()))
    details = [f"photo {number} of {count}: {problem.detail}" for number, problem in refused.items()]
    error = InferenceError(" ".join(details) if count > 1 else first.detail)
    return Response(error, status_code=first.status, headers=problems.retry_after(first.status))


def _model_of(predictions: Sequence[Prediction]) -> Model:
    """The model that computed all photos: the protocol names one, and its tensors have the labels of one.

    Raises:
        NotReady: a reload came between the photos.
    """
    if len({(one.model, *one.probabilities) for one in predictions}) > 1:
        raise NotReady("The model was replaced while the photos were computed. Retry.")
    return predictions[0].model


def _json_bytes(request: ServiceRequest) -> int | None:
    """The header that says where the JSON ends.

    Raises:
        MalformedInference: it is not a number.
    """
    given = request.headers.get(_JSON_BYTES)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > _MOST_DIGITS:
        raise tensors.MalformedInference(f"{_JSON_BYTES} is a number of bytes, not {given[:40]!r}.")
    return int(given)


def _outputs(card: Card) -> list[str]:
    """The outputs that a model has: not every artefact can tell the unfamiliar."""
    return [name for name in tensors.OUTPUTS if name != "unfamiliar" or card.unfamiliar_above is not None]


def _card(request: ServiceRequest, name: str, version: str | None) -> Card:
    """The card of the model that an address names.

    Raises:
        NotReady: there is no model to answer with.
        UnknownModel: it names another.
    """
    request.service.require_ready()
    card = request.service.models.handler.artifact.card
    if name != card.name or version not in (None, card.version):
        wanted = f"{name} {version or ''}".strip()[:100]
        raise UnknownModel(f"There is no model {wanted!r}. This service has {card.name} {card.version}.")
    return card


router: Final = Router(
    PREFIX,
    route_handlers=[server, live, ready, model, model_ready, infer],
    exception_handlers=handling(Exception, answer_error),
)
