"""The HTTP status and title of each error code, which no other module knows; no web framework is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """What all problems with one code have in common."""

    status: int
    title: str
    example: str = ""
    """A real detail of the service, word for word, as a test checks."""


KINDS: Final[dict[str, Kind]] = {
    "missing-file": Kind(
        400,
        "No image was sent",
        'There is no multipart field "file" (found \'other\'). Send the image with curl -F "file=@dog.jpg".',
    ),
    "malformed-upload": Kind(400, "The upload cannot be parsed"),
    "malformed-inference": Kind(400, "The inference request cannot be read"),
    "malformed-feedback": Kind(400, "The feedback cannot be parsed"),
    "malformed-review": Kind(400, "The verdict cannot be parsed"),
    "bad-request": Kind(400, "The request is malformed"),
    "unauthorized": Kind(
        401,
        "The API key is missing or wrong",
        'Send the key as "Authorization: Bearer KEY" or "X-API-Key: KEY".',
    ),
    "cross-origin": Kind(403, "A page of another origin asks"),
    "not-found": Kind(404, "There is nothing at this address"),
    "unknown-model": Kind(404, "The service has no such model"),
    "unknown-request": Kind(404, "No answer has this request id"),
    "unknown-photo": Kind(404, "No photo is kept under this request id"),
    "method-not-allowed": Kind(405, "This method is not allowed here"),
    "uri-too-long": Kind(414, "The address is too long"),
    "content-encoding": Kind(
        415,
        "The body has a content coding",
        "The body has the content coding 'gzip'. Send the photo without one.",
    ),
    "head-too-large": Kind(431, "The headers are too large"),
    "head-timeout": Kind(408, "The head of the request took too long"),
    "http-version": Kind(505, "This version of HTTP is not spoken here"),
    "feedback-unavailable": Kind(503, "The stored answers are not available"),
    "review-unavailable": Kind(503, "The photos for review are not available"),
    "nothing-to-undo": Kind(409, "There is no verdict to take back"),
    "upload-timeout": Kind(408, "The upload took too long"),
    "body-too-large": Kind(413, "The upload is too large"),
    "too-many-photos": Kind(413, "There are too many photos in one request"),
    "image-too-large": Kind(413, "The image is too large"),
    "unsupported-image": Kind(
        415,
        "Not an accepted image format",
        "The bytes are not an image of an accepted format (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF).",
    ),
    "empty": Kind(422, "The image is empty", "The image is empty (0 bytes)."),
    "broken-image": Kind(
        422, "The image is broken", "The JPEG image cannot be decoded: it is truncated or corrupt."
    ),
    "unknown-label": Kind(422, "The label is not one of the model's"),
    "disconnected": Kind(499, "The client disconnected"),
    "not-explainable": Kind(501, "This model has no heat maps"),
    "feedback-off": Kind(
        404,
        "This service accepts no feedback",
        "This service stores no answers to label: SERVING_FEEDBACK is not set.",
    ),
    "review-off": Kind(404, "This service keeps no photos for review"),
    "internal": Kind(500, "The service failed"),
    "overloaded": Kind(503, "The service is overloaded"),
    "not-ready": Kind(503, "The service is not ready"),
    "deadline-exceeded": Kind(504, "The answer took too long"),
}
