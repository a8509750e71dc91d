"""Mutated images, tens of thousands with SCALE: never a 500, never late, and memory does not grow."""

from __future__ import annotations

import base64
import json
import random
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.contract.errors import ImageError
from serving.contract.preprocess import preprocess
from serving.contract.structure.sniff import FORMATS
from tests.pictures import encode, scene, turned
from tests.robustness.conftest import SCALE, Target

pytestmark = pytest.mark.robust

SEEDS = {
    **{form.lower(): encode(scene(64, 48), form) for form in FORMATS},
    "jpeg-progressive": encode(scene(64, 48), progressive=True),
    "jpeg-exif": turned(6, 64, 48),
    "jpeg-cmyk": encode(scene(64, 48).convert("CMYK")),
    "png-palette": encode(scene(64, 48).convert("P"), "PNG"),
    "png-16": encode(Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)), "PNG"),
    "png-interlaced-alpha": encode(scene(64, 48).convert("RGBA"), "PNG"),
    "gif-animated": encode(scene(64, 48), "GIF", save_all=True, append_images=[scene(64, 48).rotate(9)]),
    "tiff-lzw": encode(scene(64, 48), "TIFF", compression="tiff_lzw"),
    "tiff-jpeg": encode(scene(64, 48), "TIFF", compression="jpeg"),
}
ALLOWED = {200, 400, 413, 415, 422}


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage the data one to eight times: change bytes, bits or numbers; cut, repeat or move parts."""
    image = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(image)) if image else 0
        kind = chance.randrange(7)
        if kind == 0 and image:
            image[at] = chance.randrange(256)
        elif kind == 1 and image:
            image[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            image[at : at + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1"])
        elif kind == 3:
            del image[at : at + chance.randint(1, 40)]
        elif kind == 4:
            image[at:at] = image[at : at + chance.randint(1, 40)]
        elif kind == 5:
            image = image[: max(1, at)]
        else:
            other = SEEDS[chance.choice(sorted(SEEDS))]
            image[at : at + 30] = other[at % len(other) :][:30]
    return bytes(image)


def test_fuzz_preprocess():
    """Thousands from each seed straight into the decoder: pixels or a refusal, in bounded time."""
    each, slowest, outcomes = int(1500 * SCALE), 0.0, Counter[str]()
    for name, seed in SEEDS.items():
        chance = random.Random(name)
        for _ in range(each):
            data = mutate(seed, chance)
            began = time.perf_counter()
            try:
                assert preprocess(data, 224).pixels.shape == (3, 224, 224)
                outcomes["ok"] += 1
            except ImageError as error:
                outcomes[error.code] += 1
            slowest = max(slowest, time.perf_counter() - began)
    print(f"\nfuzz preprocess: {each * len(SEEDS)} inputs, {dict(outcomes)}, slowest {slowest:.3f} s")
    assert outcomes["ok"] > 100
    assert outcomes["broken-image"] > 100
    assert slowest < 5


def test_fuzz_predict(target: Target):
    """The same through HTTP: allowed statuses only, each within the deadline, memory flat."""
    each, outcomes = int(150 * SCALE), Counter[int]()
    client = httpx.Client(base_url=target.url, timeout=30)
    slowest = 0.0

    def send(data: bytes) -> tuple[int, float]:
        began = time.perf_counter()
        response = client.post("/predict", files={"file": ("x.jpg", data)})
        return response.status_code, time.perf_counter() - began

    levels = []
    with ThreadPoolExecutor(4) as pool:
        for repeat in range(4):
            inputs = [
                mutate(seed, chance)
                for name, seed in SEEDS.items()
                for chance in [random.Random(f"{name}{repeat}")]
                for _ in range(each // 4)
            ]
            for status, seconds in pool.map(send, inputs):
                outcomes[status] += 1
                slowest = max(slowest, seconds)
            levels.append(target.resident_mb())
    client.close()
    print(
        f"\nfuzz predict: {outcomes.total()} inputs, {dict(outcomes)}, slowest {slowest:.3f} s, "
        f"resident MB by quarter {[round(level) for level in levels]}"
    )
    assert set(outcomes) <= ALLOWED
    assert slowest < 4
    assert levels[-1] < 1.1 * levels[1]
    target.check(SEEDS["jpeg"])


def test_fuzz_multipart(target: Target):
    """Damaged forms: boundaries, headers, lengths; 4xx or an answer."""
    each, outcomes = int(2000 * SCALE), Counter[int]()
    request = httpx.Request("POST", "http://x/", files={"file": ("x.jpg", SEEDS["jpeg"])})
    body, kind = request.read(), request.headers["content-type"]
    chance = random.Random(3)
    with httpx.Client(base_url=target.url, timeout=30) as client:
        for _ in range(each):
            damaged = bytearray(body)
            for _ in range(chance.randint(1, 6)):
                at = chance.choice([chance.randrange(180), len(damaged) - chance.randrange(1, 60)]) % len(
                    damaged
                )
                damaged[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            content_type = kind[: chance.randint(10, len(kind))].rstrip() if chance.random() < 0.2 else kind
            answer = client.post("/predict", content=bytes(damaged), headers={"Content-Type": content_type})
            outcomes[answer.status_code] += 1
    print(f"\nfuzz multipart: {outcomes.total()} bodies, {dict(outcomes)}")
    assert set(outcomes) <= ALLOWED
    assert outcomes[400] > 50


FORMS = ("list", "tensor", "binary", "form")
"""How a fuzzed request carries its photos."""
STATUSES = {200, 400, 413, 415, 422, 503, 504}
"""Those that the routes document, of what a body can cause."""
LENGTH = "Inference-Header-Content-Length"
VALUES = (b"-1", b"0", b"1e3", b"9" * 30, b"null", b"true", b'""', b'"\\ud800"', b"[]", b"{}", b"[[", b"\xff")
"""What takes the place of a value of the JSON."""


def several(form: str, photos: list[bytes], model: str) -> tuple[str, bytearray, dict[str, str]]:
    """A request with several photos: its path, body and headers."""
    encoded = [base64.b64encode(photo).decode() for photo in photos]
    if form == "form":
        request = httpx.Request("POST", "http://x/", files=[("file", ("x", photo)) for photo in photos])
        return "/predict", bytearray(request.read()), {"Content-Type": request.headers["content-type"]}
    if form == "list":
        body = json.dumps({"instances": [{"b64": text} for text in encoded]})
        return "/predict", bytearray(body.encode()), {"Content-Type": "application/json"}
    tensor: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [len(photos)]}
    raw = b"".join(struct.pack("<I", len(photo)) + photo for photo in photos)
    part = {"parameters": {"binary_data_size": len(raw)}} if form == "binary" else {"data": encoded}
    head = json.dumps({"inputs": [tensor | part], "outputs": [{"name": "label"}]}).encode()
    headers = {LENGTH: str(len(head))} if form == "binary" else {}
    return f"/v2/models/{model}/infer", bytearray(head + raw * (form == "binary")), headers


def damage(body: bytearray, chance: random.Random) -> None:
    """Replace values of the JSON or of the form's heads, change or drop bytes, or repeat or cut a part."""
    for _ in range(chance.randint(1, 3)):
        marks = [at for at, byte in enumerate(body[:400]) if byte in b':[,"\n'] or [0]
        at = chance.choice([*marks, chance.randrange(len(body) + 1)])
        kind = chance.randrange(4)
        if kind == 0:
            end = next((end for end in range(at + 1, len(body)) if body[end] in b",]}\n"), len(body))
            body[at + 1 : end] = chance.choice(VALUES)
        elif kind == 1:
            body[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        elif kind == 2:
            body[at:at] = body[at : at + chance.randint(1, 400)]
        else:
            del body[at : at + chance.choice([1, 4, len(body)])]


@pytest.mark.parametrize("form", FORMS)
def test_fuzz_several_photos(target: Target, form: str):
    """Damaged photos in damaged bodies: a documented status, and each error in the form of its protocol."""
    each, outcomes, chance = int(250 * SCALE), Counter[int](), random.Random(form)
    seeds = [SEEDS[name] for name in ("jpeg", "png", "gif")]
    with httpx.Client(base_url=target.url, timeout=30) as client:
        model = client.get("/health").json()["model"]["name"]
        for _ in range(each):
            photos = [mutate(seed, chance) if chance.random() < 0.3 else seed for seed in seeds]
            path, body, headers = several(form, photos, model)
            if chance.random() < 0.8:
                damage(body, chance)
            if LENGTH in headers and chance.random() < 0.2:
                headers[LENGTH] = str(chance.choice([-1, 0, 10, len(body), len(body) + 1, "1e3", "9" * 20]))
            answer = client.post(path, content=bytes(body), headers=headers)
            outcomes[answer.status_code] += 1
            if answer.status_code != 200:
                check_error(answer, path)
            elif form == "list" or (form == "form" and "predictions" in answer.json()):
                items = answer.json()["predictions"]
                identity = answer.headers["x-request-id"]
                assert [item["request_id"] for item in items] == [
                    f"{identity}.{number}" for number in range(1, len(items) + 1)
                ]
                assert all("prediction" in item or item["status"] in STATUSES for item in items)
    print(f"\nfuzz several photos, {form}: {outcomes.total()} bodies, {dict(outcomes)}")
    assert set(outcomes) <= STATUSES
    assert outcomes[200] > each / 20
    assert outcomes[400] > each / 20


def check_error(answer: httpx.Response, path: str) -> None:
    """Check that an error has the form of its protocol, and is short."""
    assert len(answer.content) < 4000
    if path.startswith("/v2/"):
        assert set(answer.json()) == {"error"}
        return
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    assert answer.json()["type"].startswith("/problems/")
