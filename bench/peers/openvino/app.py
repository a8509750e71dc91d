"""FastAPI with threads and OpenVINO: the same network from its ONNX file, in float32, one stream per core."""

import os
import threading

import openvino
from threads import serve

cores = len(os.sched_getaffinity(0))
core = openvino.Core()
network = core.read_model(os.environ["MODEL"])
network.reshape([1, 3, 224, 224])
model = core.compile_model(
    network, "CPU", {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": "f32"}
)
own = threading.local()


def initialise():
    own.request = model.create_infer_request()


def run(pixels):
    return own.request.infer({"images": pixels})["probabilities"][0].tolist()


if __name__ == "__main__":
    serve(run, initialise)
