"""FastAPI with threads and ONNX Runtime: the same network, one thread for each pass."""

import os

import onnxruntime
from threads import serve

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def run(pixels):
    return session.run(["probabilities"], {"images": pixels})[0][0].tolist()


if __name__ == "__main__":
    serve(run)
