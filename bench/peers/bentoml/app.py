"""BentoML with the same fused artefact and one worker per core, as its documentation scales a CPU service."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import torch
from PIL import Image

CORES = len(os.sched_getaffinity(0))


@bentoml.service(workers=CORES, traffic={"timeout": 60})
class Classifier:
    def __init__(self):
        torch.set_num_threads(1)
        torch.jit.enable_onednn_fusion(True)
        self.model = torch.jit.freeze(torch.jit.load(os.environ["MODEL"]).eval())
        for _ in range(3):
            self.model(torch.zeros((1, 3, 224, 224), dtype=torch.uint8))

    @bentoml.api
    def predict(self, file: Path) -> dict:
        image = Image.open(file)
        image.draft("RGB", (224, 224))
        square = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(square).transpose(2, 0, 1).copy())[None]
        with torch.inference_mode():
            probabilities = self.model(pixels)[0].tolist()
        return {"probabilities": dict(zip(("cat", "dog"), probabilities, strict=True))}


if __name__ == "__main__":
    here = Path(__file__).parent
    os.chdir(here)
    port = os.environ["PORT"]
    command = Path(sys.executable).with_name("bentoml")  # of this environment, whatever PATH says
    os.execv(command, ["bentoml", "serve", "app:Classifier", "--port", port, "--host", "127.0.0.1"])
