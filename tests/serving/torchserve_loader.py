"""Load an unpacked archive with TorchServe's own loader and predict a batch: a test runs this.

The argument is the archive's folder, the input a JSON array of requests: fields with their values in Base64,
and headers. The output is a JSON object: the answers, and the files of our own modules that were imported.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path

import ts
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import ModelLoaderFactory


class Response:
    """Reads what TorchServe's worker writes to its server, in this order."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def number(self) -> int:
        """The next four bytes."""
        self._at += 4
        return struct.unpack("!i", self._content[self._at - 4 : self._at])[0]

    def text(self) -> str:
        """The next text, after its length."""
        length = self.number()
        self._at += length
        return self._content[self._at - length : self._at].decode()

    def answers(self, count: int) -> list[dict[str, object]]:
        """The answers of a batch, in order."""
        assert (self.number(), self.text()) == (200, "Prediction success")
        return [self._answer() for _ in range(count)]

    def _answer(self) -> dict[str, object]:
        self.text()  # the request's id
        answer = {"type": self.text(), "status": self.number(), "phrase": self.text()}
        for _ in range(2 * self.number()):
            self.text()  # names and values of headers
        return answer | {"body": json.loads(self.text())}


def as_torchserve_reads(request: dict[str, dict[str, str]]) -> dict[str, object]:
    """A request as the worker gets it from TorchServe's protocol."""
    return {
        "requestId": b"1",
        "parameters": [
            {"name": name, "contentType": "image/jpeg", "value": bytearray(base64.b64decode(value))}
            for name, value in request["fields"].items()
        ],
        "headers": [
            {"name": bytearray(name.encode()), "value": bytearray(value.encode())}
            for name, value in request["headers"].items()
        ],
    }


def main(folder: Path) -> None:
    """Print the answers to the batch."""
    batch = [as_torchserve_reads(request) for request in json.load(sys.stdin)]
    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).with_name("configs") / "metrics.yaml"))
    metrics.initialize_cache()
    handler = json.loads((folder / "MAR-INF/MANIFEST.json").read_text())["model"]["handler"]
    loader = ModelLoaderFactory.get_model_loader()
    service = loader.load("archived", str(folder), handler, None, len(batch), metrics_cache=metrics)
    service.set_cl_socket(None)  # only streamed answers need it
    answers = Response(bytes(service.predict(batch))).answers(len(batch))
    ours = [module for name, module in sys.modules.items() if name.split(".")[0] in ("common", "serving")]
    print(json.dumps({"answers": answers, "files": [module.__file__ for module in ours]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
