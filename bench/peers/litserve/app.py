"""LitServe with the same fused artefact and two workers, as its documentation scales a CPU service."""

import io
import os

import litserve
import numpy as np
import torch
from fastapi import Request
from PIL import Image


class Api(litserve.LitAPI):
    def setup(self, device):
        torch.set_num_threads(1)
        torch.jit.enable_onednn_fusion(True)
        self.model = torch.jit.freeze(torch.jit.load(os.environ["MODEL"]).eval())
        for _ in range(3):
            self.model(torch.zeros((1, 3, 224, 224), dtype=torch.uint8))

    def decode_request(self, request: Request):
        image = Image.open(io.BytesIO(request["file"].file.read()))
        image.draft("RGB", (224, 224))
        square = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = np.array(square).transpose(2, 0, 1)
        return torch.from_numpy(pixels.copy())[None]

    def predict(self, x):
        with torch.inference_mode():
            return self.model(x)[0].tolist()

    def encode_response(self, output):
        return {"probabilities": dict(zip(("cat", "dog"), output, strict=True))}


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/predict"), accelerator="cpu", workers_per_device=2)
    server.run(port=int(os.environ["PORT"]), host="127.0.0.1", log_level="error", generate_client_file=False)
