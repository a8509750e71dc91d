"""The usual coursework service: an async route that decodes and runs the eager model itself."""

import io
import os

import timm
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image
from torchvision import transforms

stored = torch.load(os.environ["WEIGHTS"], weights_only=True)
model = timm.create_model("efficientnet_lite0", num_classes=2, bn_eps=1e-3)
model.load_state_dict(stored)
model.eval()
transform = transforms.Compose(
    [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
)
app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile):
    image = Image.open(io.BytesIO(await file.read())).convert("RGB")
    with torch.no_grad():
        probabilities = torch.softmax(model(transform(image)[None]), 1)[0].tolist()
    return {"probabilities": dict(zip(("cat", "dog"), probabilities, strict=True))}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error", access_log=False)
