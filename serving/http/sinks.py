"""What keeps the photos of a body as it arrives: the body itself, a form's fields `file`, or JSON instances.

`serving.http.upload` feeds a sink within its limits; `sink_for` chooses one by the Content-Type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from serving.contract.errors import ServingError
from serving.http import documents

FIELD: Final = "file"
_ONE_FILE: Final = re.compile(
    rb'(?i:Content-Disposition): form-data; name="file"(?:; filename="[^"\r\n]*")?\r\n'
    rb"(?:(?i:Content-Type): [^\r\n]*\r\n)?\r\n"
)
"""The head of the field, as curl, browsers and most libraries write it."""
T_co = TypeVar("T_co", covariant=True)


class UploadError(ServingError):
    """The request does not carry photos in an accepted form."""


class MissingFile(UploadError):
    """No photo was sent."""

    code = "missing-file"


class MalformedUpload(UploadError):
    """The body cannot be parsed."""

    code = "malformed-upload"


class TooManyPhotos(UploadError):
    """The request has more photos, or more parts, than one may have."""

    code = "too-many-photos"


@dataclass(frozen=True, slots=True)
class Photos:
    """The encoded images of one request, in order."""

    encoded: list[bytes]
    listed: bool
    """The answer is a list: several photos were sent, or a JSON list of any length."""


class Sink(Protocol[T_co]):
    """Takes a body in parts, and gives what it makes of it."""

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes of the body; return how many of them are kept."""

    def finish(self) -> T_co:
        """What the body held, once it is complete."""


class Whole:
    """Keeps a body as it is."""

    def __init__(self) -> None:
        self._kept = bytearray()  # a list of chunks would take forty times the bytes that come one by one

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes of the body; return how many of them are kept."""
        self._kept += chunk
        return len(chunk)

    def finish(self) -> bytearray:
        """What was kept, once the body is complete."""
        return self._kept


class Plain:
    """Keeps a body that is the image itself."""

    def __init__(self) -> None:
        self._whole = Whole()
        self.feed = self._whole.feed

    def finish(self) -> Photos:
        """The image.

        Raises:
            MissingFile: the body is empty.
        """
        return Photos([bytes(_not_empty(self._whole))], listed=False)


class Instances:
    """Keeps a body of the type JSON: a list of photos, unless it is an image under a wrong name."""

    def __init__(self, most_photos: int) -> None:
        self._most_photos = most_photos
        self._whole = Whole()
        self.feed = self._whole.feed

    def finish(self) -> Photos:
        """The photos of the list.

        Raises:
            MissingFile: the body or the list is empty.
            MalformedUpload: the body is not the JSON that is expected.
            TooManyPhotos: the list is too long.
        """
        body = _not_empty(self._whole)
        if not documents.is_json(body):
            return Photos([bytes(body)], listed=False)
        try:
            photos = documents.instances(body, self._most_photos)
        except documents.TooManyValues as error:
            raise TooManyPhotos(f"The list has more than {self._most_photos} photos. Send fewer.") from error
        except documents.MalformedDocument as error:
            raise MalformedUpload(
                'The JSON cannot be read. Send {"instances": [{"b64": "…"}]}, each photo in base64, or send '
                f'the image as the multipart field "{FIELD}" or as the body itself.'
            ) from error
        if not photos:
            raise MissingFile('The list "instances" is empty. Send one {"b64": "…"} for each photo.')
        return Photos(photos, listed=True)


def _not_empty(whole: Whole) -> bytearray:
    """A body.

    Raises:
        MissingFile: it is empty.
    """
    body = whole.finish()
    if not body:
        raise MissingFile(
            f'The request is empty. Send the image as the multipart field "{FIELD}" '
            f'(curl -F "{FIELD}=@dog.jpg") or as the body itself.'
        )
    return body


class Form:
    """Keeps the fields `file` of a multipart body; the other fields are parsed and dropped.

    A body that begins with that field, as nearly every one does, is kept as it comes. If nothing follows the
    field, its bytes are cut out at the end; else the parser reads the whole.
    """

    def __init__(self, boundary: str, most_parts: int) -> None:
        self._most_parts = most_parts
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        self._begun = False
        self._simple: bytearray | None = None
        self._start = 0
        # Nobody reads the names of files, which are in whatever encoding the client's system has.
        self._parser = PushMultipartParser(
            boundary, max_segment_count=most_parts + 1, header_charset="latin-1"
        )
        self._names: list[str] = []
        self._photos: list[bytearray] = []

    def feed(self, chunk: bytes) -> int:
        """Take the next bytes of the body; return how many of them are kept.

        Raises:
            MalformedUpload: they cannot be parsed.
            TooManyPhotos: there are too many parts.
        """
        if not self._begun and chunk:
            self._begun = True
            head = self._delimiter[2:] + b"\r\n"
            fields = _ONE_FILE.match(chunk, len(head)) if chunk.startswith(head) else None
            if fields:
                self._simple, self._start = bytearray(), fields.end()
        if self._simple is not None:
            self._simple += chunk
            return len(chunk)
        return self._parse(chunk)

    def _parse(self, chunk: bytes | bytearray) -> int:
        kept = 0
        try:
            for event in self._parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    self._begin(event.name)
                elif event is not None and self._names[-1] == FIELD:
                    self._photos[-1] += event
                    kept += len(event)
        except (MultipartError, ValueError, LookupError) as error:
            raise self._malformed() from error
        return kept

    def _begin(self, name: str) -> None:
        self._names.append(name)
        if len(self._names) > self._most_parts:
            raise TooManyPhotos(
                f"The form has more than {self._most_parts} parts. Send fewer photos at once."
            )
        if name == FIELD:
            self._photos.append(bytearray())

    def finish(self) -> Photos:
        """The fields `file`.

        Raises:
            MissingFile: there is no field of that name.
            MalformedUpload: the body is incomplete.
            TooManyPhotos: there are too many parts.
        """
        if self._simple is not None:
            end = self._simple.find(self._delimiter, self._start)
            if end >= 0 and self._simple[end + len(self._delimiter) :] in (
                bytearray(b"--"),
                bytearray(b"--\r\n"),
            ):
                return Photos([bytes(memoryview(self._simple)[self._start : end])], listed=False)
            self._parse(self._simple)
        try:
            self._parser.close()
        except (MultipartError, ValueError, LookupError) as error:
            raise self._malformed() from error
        if not self._photos:
            found = f"found {', '.join(sorted(set(self._names)))[:100]!r}" if self._names else "found none"
            raise MissingFile(
                f'There is no multipart field "{FIELD}" ({found}). '
                f'Send the image with curl -F "{FIELD}=@dog.jpg".'
            )
        return Photos([bytes(photo) for photo in self._photos], listed=len(self._photos) > 1)

    def _malformed(self) -> MalformedUpload:
        return MalformedUpload(
            "The multipart body cannot be parsed: it is incomplete, or its boundary is not the one in "
            "Content-Type."
        )


def sink_for(content_type: str, options: dict[str, str], most_photos: int) -> Sink[Photos]:
    """What keeps the photos of a body.

    Args:
        content_type: The media type of the body, without its parameters.
        options: The parameters of the media type.
        most_photos: Most parts of a form, and most photos of a JSON list.

    Raises:
        MalformedUpload: the multipart body has no usable boundary.
    """
    kind = content_type.lower()
    if kind == "application/json":
        return Instances(most_photos)
    if kind != "multipart/form-data":
        return Plain()
    try:
        return Form(options.get("boundary", ""), most_photos)
    except (MultipartError, ValueError, LookupError) as error:
        raise MalformedUpload("The Content-Type of the multipart body has no usable boundary.") from error
