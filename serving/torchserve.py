"""The handler file of a TorchServe archive: its requests in, objects that it can serialise out.

Each worker of TorchServe makes one object of the one class in this file, calls `initialize` once, and
`handle` for each batch. `make torchserve` archives a model with this file and the modules that it imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from serving.contract.answer import Answer, Refusal
from serving.contract.errors import ImageError, NotExplainable
from serving.contract.preprocess import DecodedImage
from serving.http.kinds import KINDS
from serving.runtime.context import Context, RequestContext
from serving.runtime.handler import ImageClassifierHandler
from serving.runtime.load import choose_device


class TorchServeHandler:
    """Gives each request of a batch a prediction, a description, heat maps, or a refusal of its own."""

    def __init__(self) -> None:
        self._handler = ImageClassifierHandler()

    def initialize(self, context: Context) -> None:
        """Load the archived model, on the GPU that TorchServe gives this worker if its runtime can use one.

        Raises:
            ArtifactError: the file is missing or damaged, or does not reproduce its probe.
        """
        properties = context.system_properties
        path = Path(properties["model_dir"], context.manifest["model"]["serializedFile"])
        gpu = properties.get("gpu_id")
        if gpu is not None and choose_device("auto", path) != "cpu":
            self._handler = ImageClassifierHandler(device=f"cuda:{gpu}", max_batch=properties["batch_size"])
        self._handler.initialize(context)

    def handle(self, data: list[Any], context: RequestContext) -> list[dict[str, Any]]:
        """One object for each request, in order; a refused one also gets the HTTP status of its problem."""
        batch = self._handler.inference(self._handler.preprocess(data))
        results = zip(batch.images, self._handler.postprocess(batch), strict=True)
        return [self._respond(context, index, image, answer) for index, (image, answer) in enumerate(results)]

    def _respond(
        self, context: RequestContext, index: int, image: DecodedImage | ImageError, answer: Answer | Refusal
    ) -> dict[str, Any]:
        context.set_response_content_type(index, "application/json")
        if context.get_request_header(index, "describe") == "True":
            return self._handler.describe_handle()
        if context.get_request_header(index, "explain") == "True" and isinstance(image, DecodedImage):
            maps = self._handler.explain(image)
            if maps is not None:
                return {label: values.tolist() for label, values in maps.items()}
            answer = Refusal(NotExplainable.code, "This model has no heat maps.")
        if isinstance(answer, Refusal):
            kind = KINDS[answer.error]
            context.set_response_status(kind.status, kind.title, index)
        response: dict[str, Any] = msgspec.to_builtins(answer)
        return response
