"""The errors of a request, independent of any protocol.

The handler and the engine raise them. Only `serving.http.kinds` maps their codes to HTTP statuses, and
only `training.photos.prepare` maps them to reasons in the list of dropped files.
"""

from __future__ import annotations

from common.errors import UserError


class ServingError(UserError):
    """Base of all errors that this package raises on purpose.

    `code` is the stable, machine-readable name of the error, `detail` one sentence for a person.
    """

    code: str = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ImageError(ServingError):
    """The bytes of one image cannot be decoded into pixels."""


class MissingImage(ImageError):
    """The request has no field that is the image, or several that may be it."""

    code = "missing-file"


class EmptyImage(ImageError):
    """There are no bytes."""

    code = "empty"


class UnsupportedImage(ImageError):
    """The bytes are not an image of an allowed format."""

    code = "unsupported-image"


class BrokenImage(ImageError):
    """The bytes start as an image of an allowed format, but are truncated or corrupt."""

    code = "broken-image"


class ImageTooLarge(ImageError):
    """The image exceeds a limit on bytes, pixels or sides."""

    code = "image-too-large"


class ArtifactError(ServingError):
    """The model file is missing, damaged, of another schema, or fails its probe."""

    code = "artifact"


class EngineError(ServingError):
    """The engine could not answer a well-formed request."""


class Overloaded(EngineError):
    """The request was refused at once, because it could not be answered in time."""

    code = "overloaded"

    def __init__(self, detail: str, *, retry_after_seconds: float, reason: str) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason


class DeadlineExceeded(EngineError):
    """The request was accepted, but its time ran out before it was answered."""

    code = "deadline-exceeded"


class NotReady(EngineError):
    """No model is ready: the service is starting, draining or failed."""

    code = "not-ready"


class NotExplainable(ServingError):
    """The artefact has no `explain` method."""

    code = "not-explainable"


class FeedbackOff(ServingError):
    """The service stores no answers to label."""

    code = "feedback-off"


class FeedbackUnavailable(ServingError):
    """The store of answers cannot be read or written now."""

    code = "feedback-unavailable"


class MalformedFeedback(ServingError):
    """The body is not a JSON object with `request_id` and `label`."""

    code = "malformed-feedback"


class UnknownLabel(ServingError):
    """The label is not one of the model's."""

    code = "unknown-label"


class UnknownRequest(ServingError):
    """No answer is stored under this request id."""

    code = "unknown-request"


class ReviewOff(ServingError):
    """The service keeps no photos for review."""

    code = "review-off"


class ReviewUnavailable(ServingError):
    """The photos for review cannot be read or written now."""

    code = "review-unavailable"


class MalformedReview(ServingError):
    """The body or the query of a request about a review is not as it should be."""

    code = "malformed-review"


class UnknownPhoto(ServingError):
    """No photo is kept for review under this request id."""

    code = "unknown-photo"


class NothingToUndo(ServingError):
    """The reviewer has given no verdict."""

    code = "nothing-to-undo"


class CrossOrigin(ServingError):
    """A page of another origin asks for what only the service's own page may."""

    code = "cross-origin"


class Unauthorized(ServingError):
    """The service requires a key, and the request does not carry it."""

    code = "unauthorized"


class ConfigurationError(ServingError):
    """A setting has an unknown name or an invalid value."""

    code = "configuration"
