"""FastAPI with threads done right, for any runtime: one more thread than cores, JPEGs decoded at a scale."""

import asyncio
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

SIDE = 224
FULL_DECODE = bool(os.environ.get("FULL_DECODE"))


def serve(run, initializer=None):
    """Serve `run`, from u8[1,3,224,224] to two probabilities, which each thread calls after `initializer`."""
    threads = len(os.sched_getaffinity(0)) + 1  # as many as our service uses
    pool = ThreadPoolExecutor(threads, initializer=initializer)
    app = FastAPI()

    def classify(data: bytes) -> list[float]:
        image = Image.open(io.BytesIO(data))
        if not FULL_DECODE:
            image.draft("RGB", (SIDE, SIDE))
        square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return run(np.array(square).transpose(2, 0, 1).copy()[None])

    @app.post("/predict")
    async def predict(file: UploadFile):
        probabilities = await asyncio.get_running_loop().run_in_executor(pool, classify, await file.read())
        return {"probabilities": dict(zip(("cat", "dog"), probabilities, strict=True))}

    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error", access_log=False)
