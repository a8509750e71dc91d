"""What arrives, in whatever form clients send it, and within one budget of bytes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract.errors import Overloaded
from serving.engine.budget import ByteBudget
from serving.http.sinks import Form, MalformedUpload, MissingFile, Photos, Plain, UploadError, Whole, sink_for
from serving.http.upload import Allowance, BodyTooLarge, EncodedBody, read_body
from serving.settings import Settings
from tests.conftest import Client, running
from tests.pictures import encode, scene

JPEG = encode(scene())


def form(*fields: tuple[bytes, bytes], boundary: bytes = b"b") -> bytes:
    """A multipart body of headers and contents."""
    return (
        b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, *field) for field in fields)
        + b"--%s--\r\n" % boundary
    )


def channel(*chunks: bytes, complete: bool = True) -> Callable[[], Any]:
    """An ASGI channel that gives these chunks, and then nothing."""

    async def messages() -> AsyncIterator[dict[str, Any]]:
        for number, chunk in enumerate(chunks):
            last = complete and number == len(chunks) - 1
            yield {"type": "http.request", "body": chunk, "more_body": not last}
        await asyncio.Event().wait()

    iterator = messages()
    return lambda: anext(iterator)


NAMES = {
    "ASCII": b"dog.jpg",
    "UTF-8": "chien é.jpg".encode(),
    "Latin-1": "chien é.jpg".encode("latin-1"),
    "Shift-JIS": "\u72ac.jpg".encode("shift-jis"),
    "GBK": "\u72d7.jpg".encode("gbk"),
}


@pytest.mark.parametrize("encoding", NAMES)
def test_a_file_name_in_any_encoding_is_accepted(client: Client, encoding: str):
    """As browsers and tools of many countries send it; another field may be in Latin-1 as well."""
    disposition = b'Content-Disposition: form-data; name="file"; filename="%s"' % NAMES[encoding]
    other = b'Content-Disposition: form-data; name="auteur"', "Réné".encode("latin-1")
    body = form(other, (disposition + b"\r\nContent-Type: image/jpeg", JPEG))
    reply = client.post("/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "Multipart/Form-Data; boundary=b",
        'MULTIPART/FORM-DATA; BOUNDARY="b"',
        'multipart/form-data; charset=utf-8; boundary="b"',
    ],
)
def test_the_kind_of_a_form_is_understood_however_it_is_written(client: Client, kind: str):
    """Types and parameters are case-insensitive (RFC 9110, 8.3.1)."""
    body = form((b'Content-Disposition: form-data; name="file"; filename="x"', JPEG))
    assert client.post("/predict", content=body, headers={"Content-Type": kind}).status_code == 200


def test_a_content_coding_is_refused_with_what_is_accepted(client: Client):
    """415 with Accept-Encoding (RFC 9110, 15.5.16), not "not an image"."""
    reply = client.post("/predict", content=JPEG, headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 415
    assert reply.headers["accept-encoding"] == "identity"
    assert "content coding 'gzip'" in reply.json()["detail"]


def test_a_label_that_no_header_can_hold_is_encoded(tmp_path: Path):
    """`/explain` names it in a header, which holds Latin-1 at most."""
    from tests import tiny

    model = tiny.write_artifact(tmp_path / "m.pt", labels=("\u732b", "dog 50%\r\nX: y"))
    with running(Settings(model=str(model), workers=1, deadline_seconds=60)) as client:
        reply = client.post("/explain", content=JPEG)
        assert reply.status_code == 200
        assert reply.headers["x-prediction"] in ("%E7%8C%AB", "dog 50%25%0D%0AX: y")
        assert "explain;dur=" in reply.headers["server-timing"]
        assert reply.headers["x-request-id"]
        text = client.get("/metrics").text
        assert 'classifier_explanations_total{outcome="ok"} 1.0' in text


def read(sink: Any, *chunks: bytes, headers: dict[str, str] | None = None, **options: Any) -> bytes:
    """Read a body that arrives in chunks."""
    allowance = Allowance(ByteBudget(10_000_000), **{"limit_bytes": 1_000_000, "limit_seconds": 5} | options)
    return asyncio.run(read_body(channel(*chunks), sink, allowance, headers or {}, [].append))


def test_a_form_is_parsed_as_it_arrives():
    """Byte by byte gives the same; only the photo is kept."""
    disposition = b'Content-Disposition: form-data; name="file"; filename="x"'
    body = form((b'Content-Disposition: form-data; name="other"', bytes(5000)), (disposition, JPEG))
    options = {"boundary": "b"}
    assert read(sink_for("multipart/form-data", options, 16), body).encoded == [JPEG]
    whole = [body[i : i + 1] for i in range(len(body))]
    assert read(sink_for("multipart/form-data", options, 16), *whole).encoded == [JPEG]


@pytest.mark.parametrize(
    ("sink", "chunks", "error"),
    [
        (Plain, [b""], MissingFile),
        (lambda: sink_for("multipart/form-data", {"boundary": "b"}, 16), [b"--b--\r\n"], MissingFile),
        (lambda: sink_for("multipart/form-data", {"boundary": "b"}, 16), [b"--b\r\nx"], MalformedUpload),
        (lambda: sink_for("multipart/form-data", {}, 16), [b""], MalformedUpload),
        (Whole, [bytes(600_000)] * 2, BodyTooLarge),
    ],
)
def test_what_is_no_photo_is_refused(sink: Callable[[], Any], chunks: list[bytes], error: type[Exception]):
    """Each with its own error."""
    with pytest.raises(error):
        read(sink(), *chunks)


def test_what_is_announced_as_too_large_or_encoded_is_not_read():
    """The channel has nothing to give."""
    with pytest.raises(BodyTooLarge):
        read(Whole(), headers={"content-length": "1000001"})
    with pytest.raises(EncodedBody):
        read(Whole(), headers={"content-encoding": "br"})


def test_the_costliest_incomplete_body_gives_way():
    """Bytes times seconds: a large upload that stands still makes room for others, and gets 503."""
    now = [0.0]
    budget = ByteBudget(8_000_000, clock=lambda: now[0])
    allowance = Allowance(budget, 20_000_000, 60)
    held: list[Any] = []

    async def upload(size: int, *, complete: bool = True, announced: bool = True) -> bytes:
        headers = {"content-length": str(size)} if announced else {}
        return await read_body(
            channel(bytes(size), complete=complete), Whole(), allowance, headers, held.append
        )

    async def play() -> None:
        slow = asyncio.create_task(upload(5_000_000, complete=False))
        await asyncio.sleep(0)
        assert budget.held_bytes == 5_000_000
        with pytest.raises(Overloaded):  # the other is no slower yet
            await upload(2_000_000)
        with pytest.raises(Overloaded):
            await upload(2_000_000, announced=False)
        assert len(await upload(900_000)) == 900_000  # a small one has room of its own
        now[0] += 10
        assert len(await upload(2_000_000)) == 2_000_000
        with pytest.raises(Overloaded, match="More is being uploaded at once"):
            await asyncio.wait_for(slow, 5)
        assert budget.held_bytes == 2_900_000
        now[0] += 10
        with pytest.raises(Overloaded):  # complete bodies keep what they have
            await upload(4_000_000)
        for share in held:
            budget.release(share)
            budget.release(share)
        assert budget.held_bytes == 0

    asyncio.run(play())


def test_what_a_request_held_is_given_back_with_its_answer(client: Client):
    """Whatever the answer."""
    for content in (JPEG, b"no photo", b"", encode(scene())[:200]):
        client.post("/predict", content=content)
    assert client.app.state.service.budget.held_bytes == 0


def test_a_feedback_body_has_a_limit_of_its_own(model: Path, tmp_path: Path):
    """It is a line of JSON."""
    settings = Settings(model=str(model), workers=1, api_key="k", feedback=str(tmp_path / "f.db"))
    with running(settings) as client:
        reply = client.post("/feedback", content=bytes(70_000), headers={"X-API-Key": "k"})
        assert reply.status_code == 413


PIECES = st.sampled_from(
    [
        *(b"--b\r\n", b"\r\n--b\r\n", b"\r\n--b--", b"\r\n--b--\r\n", b"\r\n--b", b"\r\n", b"--"),
        b'Content-Disposition: form-data; name="file"; filename="dog.jpg"\r\nContent-Type: a/b\r\n\r\n',
        b'content-disposition: form-data; name="file"\r\n\r\n',
        b'Content-Disposition: form-data; name="FILE"\r\n\r\n',
        b'Content-Disposition: form-data; name="other"\r\n\r\nx',
        *(b"pixels", b"\r", b"\n", b"\x00", b"epilogue"),
    ]
)
SIMPLE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="dog.jpg"\r\n\r\n'


@given(st.booleans(), st.lists(PIECES, max_size=8), st.integers(1, 60))
def test_the_short_way_through_a_form_finds_what_the_parser_finds(
    simple: bool, pieces: list[bytes], size: int
):
    """The same bytes or the same error, whatever the body and its chunks.

    The parser gets the body at once: what it makes of a broken head depends on where the chunks end.
    """
    body = (SIMPLE if simple else b"") + b"".join(pieces)
    first = max(size, len(SIMPLE)) if simple else size

    def outcome(form: Form, chunks: list[bytes]) -> Photos | str:
        try:
            for chunk in chunks:
                form.feed(chunk)
            return form.finish()
        except UploadError as error:
            return f"{type(error).__name__}: {error}"

    short, long = Form("b", 4), Form("b", 4)
    long._begun = True  # past the beginning nothing is tried but the parser
    found = outcome(short, [body[:first], *(body[at : at + size] for at in range(first, len(body), size))])
    if short._simple is not None:
        assert found == outcome(long, [body])


def test_every_answer_is_the_same_past_litestar_and_through_it(client: Client):
    """A query goes the long way: statuses, problems, headers and predictions agree."""
    file = {"file": ("dog.jpg", JPEG, "image/jpeg")}
    kinds: list[dict[str, Any]] = [
        {"content": JPEG},
        {"files": file},
        {"files": {"photo": file["file"]}},
        {"files": [("file", ("a.jpg", JPEG)), ("file", ("b.jpg", b"no image"))]},
        {"json": {"instances": [{"b64": base64.b64encode(JPEG).decode()}]}},
        {"content": b""},
        {"content": b"no image"},
        {"content": JPEG[:200]},
        {"content": b"x" * 1_000_001},
        {"content": JPEG, "headers": {"Content-Encoding": "gzip"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
    ]
    for kind in kinds:
        short, long = (client.post(f"/predict{query}", **kind) for query in ("", "?top=2"))
        assert short.status_code == long.status_code
        assert short.headers["content-type"] == long.headers["content-type"]
        assert set(short.headers) == set(long.headers)
        one, other = short.json(), long.json()
        changing = ("latency_ms", "request_id", "instance")
        for first, second in zip(
            one.get("predictions", [one]), other.get("predictions", [other]), strict=True
        ):
            assert {k: v for k, v in first.items() if k not in changing} == {
                k: v for k, v in second.items() if k not in changing
            }
