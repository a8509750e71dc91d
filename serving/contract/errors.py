"""What can be wrong with a request, in the words of the problem and not of a protocol.

The handler and the engine raise these; only `serving.http.problems` knows that a code becomes a HTTP
status, and only `training.photos.prepare` that it becomes a reason in the list of dropped files.
"""

from __future__ import annotations

from common.errors import UserError


class ServingError(UserError):
    """Base of everything this package raises on purpose.

    `code` is the stable machine-readable name of the fault, `detail` one sentence for a person.
    """

    code: str = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ImageError(ServingError):
    """The bytes of one image cannot be turned into pixels."""


class EmptyImage(ImageError):
    """There are no bytes at all."""

    code = "empty"


class UnsupportedImage(ImageError):
    """The bytes are not an image of an allowed format."""

    code = "unsupported-image"


class BrokenImage(ImageError):
    """The bytes begin as an allowed image and then fail: truncated or corrupt."""

    code = "broken-image"


class ImageTooLarge(ImageError):
    """The image is over a cap on bytes, pixels or sides."""

    code = "image-too-large"


class ArtifactError(ServingError):
    """The model file is missing, damaged, of another schema, or fails its probe."""

    code = "artifact"


class EngineError(ServingError):
    """The engine could not answer a well-formed request."""


class Overloaded(EngineError):
    """The request was refused at once, since it could not be answered in time."""

    code = "overloaded"

    def __init__(self, detail: str, *, retry_after_seconds: float, reason: str) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason


class DeadlineExceeded(EngineError):
    """The request was accepted, and its time ran out before it was computed."""

    code = "deadline-exceeded"


class NotReady(EngineError):
    """No model is ready: starting, draining or failed."""

    code = "not-ready"


class NotExplainable(ServingError):
    """The artefact has no method `explain`."""

    code = "not-explainable"


class FeedbackOff(ServingError):
    """The service keeps no answers to label."""

    code = "feedback-off"


class MalformedFeedback(ServingError):
    """The body is no JSON object with `request_id` and `label`."""

    code = "malformed-feedback"


class UnknownLabel(ServingError):
    """The label is none of the model's."""

    code = "unknown-label"


class UnknownRequest(ServingError):
    """No answer is remembered under this request id."""

    code = "unknown-request"


class Unauthorized(ServingError):
    """The service has a key and the request does not show it."""

    code = "unauthorized"


class ConfigurationError(ServingError):
    """A setting has an unknown name or an impossible value."""

    code = "configuration"
