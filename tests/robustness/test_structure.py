"""Files and requests whose structure is changed, not their bytes: never a 500, never late, over HTTP.

Segments, chunks, blocks, directories and boxes are dropped, repeated, swapped and resized, with right
checksums where a format has them, so that what arrives at a decoder is well formed in all but one respect.
The heads of requests and the parts of forms are changed in the same way.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psutil
import pytest
from PIL import Image

from tests.pictures import encode, scene, turned
from tests.processes import service
from tests.robustness.conftest import SCALE, Target

pytestmark = pytest.mark.robust

Parts = list[bytes]
ALLOWED = {200, 204, 400, 404, 405, 408, 413, 414, 415, 422, 431, 503, 504, 505}
SLOWEST_SECONDS = 4.0
_BOX = re.compile(
    rb"(?=....(?:ftyp|meta|hdlr|pitm|iloc|iinf|iprp|ipco|ispe|av1C|ipma|mdat))|(?=VP8[ LX]|ANM[IF]|ALPH|EXIF)"
)


def jpeg_parts(data: bytes) -> Parts:
    """The segments of a JPEG; each scan goes with its data."""
    return re.split(rb"(?=\xff[\xc0-\xcf\xda-\xef\xfe])", data)


def png_parts(data: bytes) -> Parts:
    """The signature and the chunks of a PNG."""
    parts, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        parts.append(data[at:end])
        at = end
    return parts


def gif_parts(data: bytes) -> Parts:
    """The blocks of a GIF, roughly."""
    return re.split(rb"(?=\x21[\xf9\xfe\xff\x01])|(?=\x2c....\x40\x00)", data, flags=re.DOTALL)


def tiff_parts(data: bytes) -> Parts:
    """The head, the entries of the directory, and the rest of a little-endian TIFF."""
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    entries = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    return [data[: start + 2], *entries, data[start + 2 + 12 * count :]]


def box_parts(data: bytes) -> Parts:
    """The chunks of a WebP or the boxes of an AVIF, by their names."""
    return _BOX.split(data)


SEEDS: dict[str, tuple[bytes, Callable[[bytes], Parts]]] = {
    "jpeg": (encode(scene(64, 48)), jpeg_parts),
    "progressive": (encode(scene(64, 48), progressive=True), jpeg_parts),
    "cmyk": (encode(scene(64, 48).convert("CMYK"), progressive=True), jpeg_parts),
    "exif": (turned(6, 64, 48), jpeg_parts),
    "png": (encode(scene(64, 48), "PNG"), png_parts),
    "palette": (encode(scene(64, 48).convert("P"), "PNG", transparency=0), png_parts),
    "gif": (encode(scene(64, 48), "GIF", save_all=True, append_images=[scene(64, 48).rotate(9)]), gif_parts),
    "tiff": (encode(scene(64, 48), "TIFF", compression="tiff_lzw"), tiff_parts),
    "tiff-jpeg": (encode(scene(64, 48), "TIFF", compression="jpeg"), tiff_parts),
    "webp": (
        encode(scene(64, 48), "WEBP", save_all=True, append_images=[scene(64, 48).rotate(9)]),
        box_parts,
    ),
    "avif": (encode(scene(64, 48), "AVIF"), box_parts),
    "bmp": (encode(Image.new("P", (64, 48)), "BMP"), lambda data: [data[:14], data[14:54], data[54:]]),
}
TARGETS = (
    *("/", "/predict?a=b", "/explain", "/feedback", "/health", "/metrics", "/web/%00", "/web/" + "a" * 3000),
    *("*", "http://x/predict", "/%ff%fe", "/../../etc/passwd", "//", "/problems/x", "/schema/openapi.json"),
)
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 4096, 16_384, 65_535, 1 << 24, (1 << 31) - 1, (1 << 32) - 1)


def mutate(parts: Parts, chance: random.Random) -> Parts:
    """Change the structure one to four times."""
    parts = [*parts]
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(parts))
        match chance.randrange(6):
            case 0 if len(parts) > 2:
                del parts[at]
            case 1:
                parts[at:at] = [parts[at]] * chance.choice(
                    (1, 2, 50, 3000) if len(parts[at]) < 200 else (1, 2, 20)
                )
            case 2:
                other = chance.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                foreign, split = SEEDS[chance.choice(sorted(SEEDS))]
                parts[at:at] = [chance.choice(split(foreign))]
            case _:
                parts[at] = resized(parts[at], chance)
    return parts


def resized(part: bytes, chance: random.Random) -> bytes:
    """A part with one of its first numbers changed: what it declares, not what it holds."""
    if len(part) < 6:
        return part
    form = chance.choice((">H", "<H", ">I", "<I"))
    size = struct.calcsize(form)
    at = chance.randrange(min(len(part), 40) - size + 1)
    changed = bytearray(part)
    struct.pack_into(form, changed, at, chance.choice(NUMBERS) & (1 << 8 * size) - 1)
    return bytes(changed)


def photo(chance: random.Random) -> bytes:
    """A file of changed structure; the checksums of a PNG are right."""
    data, split = SEEDS[chance.choice(sorted(SEEDS))]
    parts = mutate(split(data), chance)
    if split is png_parts:
        parts = [
            part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4])) if len(part) >= 12 else part
            for part in parts
        ]
    return b"".join(parts)[:5_000_000]


def form(chance: random.Random, content: bytes) -> tuple[list[str], bytes]:
    """A form of changed structure."""
    boundary = chance.choice(["b", "-" * 30 + "x", "a'b", "", "x" * 200, "b c"])
    disposition = chance.choice(
        [
            'Content-Disposition: form-data; name="file"; filename="x.jpg"',
            "Content-Disposition: form-data; name=file",
            "Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''%e2%82%ac.jpg",
            'content-disposition: FORM-DATA; name="file"; filename="\xe9\xff.jpg"',
            'Content-Disposition: attachment; name="file"',
            "",
            "Content-Disposition",
        ]
    )
    extra = chance.choice(
        ["", "\r\nContent-Type: image/jpeg", "\r\nContent-Transfer-Encoding: base64", "\r\n" * 3]
    )
    part = f"--{boundary}\r\n{disposition}{extra}\r\n\r\n".encode("latin-1") + content + b"\r\n"
    body = part * chance.choice((1, 1, 1, 2, 17, 40) if len(part) < 20_000 else (1, 2))
    ending = chance.choice([f"--{boundary}--\r\n", f"--{boundary}--", f"--{boundary}\r\n", ""])
    kind = chance.choice(
        ["multipart/form-data", "Multipart/Form-Data", "multipart/mixed", "multipart/form-data;;"]
    )
    quoted = chance.choice([boundary, f'"{boundary}"'])
    return [f"Content-Type: {kind}; boundary={quoted}"], body + ending.encode()


def request(chance: random.Random) -> bytes:
    """A whole request; most are well formed around a changed photo."""
    content, fields = photo(chance), list[str]()
    if chance.random() < 0.3:
        fields, content = form(chance, content if chance.random() < 0.5 else encode(scene(64, 48)))
    line = "POST /predict HTTP/1.1"
    framing = [f"Content-Length: {len(content)}"]
    if chance.random() < 0.15:
        method = chance.choice(
            ["GET", "HEAD", "PUT", "OPTIONS", "PATCH", "DELETE", "TRACE", "M-SEARCH", "post", ""]
        )
        target = chance.choice(TARGETS)
        version = chance.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1 ", ""])
        line = f"{method} {target} {version}"
    if chance.random() < 0.15:
        framing = chance.choice(
            [
                ["Transfer-Encoding: chunked"],
                ["Transfer-Encoding: chunked", f"Content-Length: {len(content)}"],
                ["Transfer-Encoding: gzip, chunked"],
                [f"Content-Length: {len(content)}", f"Content-Length: {len(content) + 1}"],
                ["Content-Length: -1"],
                ["Content-Length: 99999999999999999999"],
                [],
            ]
        )
        if framing == ["Transfer-Encoding: chunked"]:
            extension = chance.choice(["", ";a=b", ";" + "a" * 100])
            size = chance.choice((1, 100, 65_536)) if len(content) < 5000 else 65_536
            pieces = [content[i : i + size] for i in range(0, len(content), size)]
            content = (
                b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension.encode(), p) for p in pieces) + b"0\r\n\r\n"
            )
    if chance.random() < 0.15:
        fields += chance.choice(
            [
                ["Content-Encoding: gzip"],
                ["Connection: upgrade", "Upgrade: h2c"],
                ["Expect: 100-continue"],
                ["X-Request-ID: \xff\xfe"],
                ["Accept: */*;q=nan"],
                ["traceparent: 00-x"],
                [f"X-{n}: a" for n in range(150)],
                ["Cookie: " + "a" * 20_000],
                ["Content-Type: \xff/\xfe; charset=\xe9"],
                [": empty", "Bad Header: x"],
                [" folded: x"],
            ]
        )
    hosts = chance.choice([["Host: x"]] * 12 + [[], ["Host: a", "Host: b"], ["Host:"]])
    head = "\r\n".join([line, *hosts, "Connection: close", *framing, *fields]) + "\r\n\r\n"
    return head.encode("latin-1") + content


def exchange(address: tuple[str, int], data: bytes) -> tuple[int, float]:
    """Send a request on a connection of its own; return the status, 0 if there is none, and the seconds."""
    began, answer = time.monotonic(), b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        while more := connection.recv(65536):
            answer += more
    seconds = time.monotonic() - began
    statuses = re.findall(rb"^HTTP/1\.1 (\d+)", answer)
    return (int(statuses[0]) if statuses and statuses[0] != b"100" else 0), seconds


@pytest.fixture(scope="module")
def quick(environment: Callable[..., dict[str, str]]) -> Iterator[Target]:
    """A service that does not wait long for the end of a request, which many inputs lack."""
    limits = {"SERVING_HEAD_SECONDS": "1", "SERVING_UPLOAD_SECONDS": "1"}
    with service(environment(**limits)) as process:
        process.wait_for("ready")
        yield Target(process, process.url, psutil.Process(process.popen.pid))
        assert process.stop() == 0


def test_structure_of_files_and_requests(quick: Target):
    """Thousands over HTTP: allowed statuses only, in time; the service lives, and its memory is bounded."""
    parts = urlsplit(quick.url)
    address = str(parts.hostname), int(parts.port or 0)
    count, outcomes, slowest = int(3000 * SCALE), Counter[int](), 0.0
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, count, 1000):
            inputs = [
                request(random.Random(f"structure {n}")) for n in range(first, min(first + 1000, count))
            ]
            for number, (status, seconds) in enumerate(
                pool.map(lambda data: exchange(address, data), inputs)
            ):
                outcomes[status] += 1
                slowest = max(slowest, seconds)
                assert status in ALLOWED | {0}, f"input {first + number}: {inputs[number][:300]!r}"
    print(
        f"\nstructure: {count} inputs, {dict(sorted(outcomes.items()))}, slowest {slowest:.2f} s, "
        f"{quick.resident_mb():.0f} MB"
    )
    assert outcomes[200] > count / 20
    assert outcomes[422] > count / 20
    assert slowest < SLOWEST_SECONDS
    assert quick.resident_mb() < 1300
    quick.check(encode(scene()))
