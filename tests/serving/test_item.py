"""Whatever a server hands over for one photo is answered, or refused on its own."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract.answer import Answer, Refusal
from serving.http.kinds import KINDS
from serving.runtime.handler import ImageClassifierHandler, load_handler
from tests.pictures import encode, scene

PHOTO = encode(scene())
OTHER = encode(scene(100, 90), "PNG")
TEXT = base64.b64encode(PHOTO).decode()
FORMS = {
    "bytes": PHOTO,
    "bytearray": bytearray(PHOTO),
    "memoryview": memoryview(PHOTO),
    "a part of a memoryview": memoryview(b"--" + PHOTO)[2:],
    "Base64": TEXT,
    "Base64 in lines": base64.encodebytes(PHOTO).decode(),
}
ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(TEXT[:100]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["body", "data", "file", "known"]) | st.text() | st.none(), inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def handler(model: Path) -> ImageClassifierHandler:
    """A handler of the small artefact."""
    return load_handler(model)


@pytest.fixture(scope="module")
def answer(handler: ImageClassifierHandler) -> Answer:
    """The answer to the photo as the service's own engine hands it over."""
    return handler.handle([{"body": PHOTO}])[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["body", "data", "file", "photo", "known", ""])
def test_a_photo_is_answered_under_any_name_and_in_any_form(
    handler: ImageClassifierHandler, answer: Answer, name: str, form: str
):
    """The answer is that to the plain bytes."""
    assert handler.handle([{name: FORMS[form]}]) == [answer]


@pytest.mark.parametrize(
    "item",
    [
        {"body": {"data": TEXT}},
        {"body": {"photo": TEXT}},
        {"body": bytearray(PHOTO), "data": OTHER, "file": OTHER},
        {"top": b"5", "data": PHOTO},
        {"file": PHOTO, "note": "my cat"},
        {"body": bytearray(PHOTO), "known": b"nothing"},
        bytearray(PHOTO),
        TEXT,
    ],
    ids=[
        "JSON",
        "JSON, any name",
        "body first",
        "data first",
        "file first",
        "known",
        "no object",
        "a string",
    ],
)
def test_the_image_is_found(handler: ImageClassifierHandler, answer: Answer, item: Any):
    """In an object inside the body, next to other fields, and where an envelope has taken the fields off."""
    assert handler.handle([item]) == [answer]


@pytest.mark.parametrize(
    ("item", "code", "detail"),
    [
        ({}, "missing-file", "found none"),
        ({"left": PHOTO, "right": PHOTO}, "missing-file", "found 'left, right'"),
        ({"body": {}}, "missing-file", "found none"),
        ({"body": {"body": {"body": TEXT}}}, "unsupported-image", "type dict"),
        ({"data": [1, 2]}, "unsupported-image", "type list"),
        ({"data": None}, "unsupported-image", "type NoneType"),
        ({"body": 5.0}, "unsupported-image", "type float"),
        ({"body": "a cat, très belle"}, "unsupported-image", "not Base64"),
        ({"body": TEXT[:-1]}, "unsupported-image", "not Base64"),
        ({"body": bytearray()}, "empty", "0 bytes"),
        ({"data": ""}, "empty", "0 bytes"),
        ({"data": bytearray(b"no photo")}, "unsupported-image", "not an image"),
        ({"data": PHOTO[:-400]}, "broken-image", "truncated"),
        (None, "unsupported-image", "type NoneType"),
    ],
)
def test_an_item_that_is_no_photo_is_refused_alone(
    handler: ImageClassifierHandler, answer: Answer, item: Any, code: str, detail: str
):
    """Its neighbours are answered, and the refusal says what came."""
    before, refusal, after = handler.handle([{"body": PHOTO}, item, {"data": bytearray(PHOTO)}])
    assert before == after == answer
    assert refusal.error == code
    assert detail in refusal.detail


@given(item=ITEMS)
def test_no_value_raises(handler: ImageClassifierHandler, answer: Answer, item: Any):
    """Any object of any values is refused with a code that is the caller's fault, and alone."""
    refusal, other = handler.handle([item, {"body": PHOTO}])
    assert isinstance(refusal, Refusal)
    assert 400 <= KINDS[refusal.error].status < 500
    assert other == answer
