"""FastAPI with threads done right: the fused artefact, one intra-op thread, one more thread than cores."""

import os

import torch
from threads import serve

torch.set_num_threads(1)
torch.jit.enable_onednn_fusion(True)
model = torch.jit.freeze(torch.jit.load(os.environ["MODEL"]).eval())
for _ in range(3):
    model(torch.zeros((1, 3, 224, 224), dtype=torch.uint8))


def run(pixels):
    with torch.inference_mode():
        return model(torch.from_numpy(pixels))[0].tolist()


if __name__ == "__main__":
    serve(run, lambda: torch.set_num_threads(1))
