"""Keras and FastAPI: an async route that runs Keras' own network of the same size (0.39 GMAC) itself."""

import io
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

model = keras.applications.EfficientNetB0(weights=None, classes=2)
app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile):
    image = Image.open(io.BytesIO(await file.read())).convert("RGB").resize((224, 224))
    probabilities = model.predict(np.asarray(image, np.float32)[None], verbose=0)[0].tolist()
    return {"probabilities": dict(zip(("cat", "dog"), probabilities, strict=True))}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error", access_log=False)
