"""Keras' training loop on the same network (EfficientNet-Lite0) and photos, driven by lines on stdin.

    python train.py TRAIN VALIDATION SIZE BATCH_SIZE LEARNING_RATE WEIGHTS.npz

TRAIN and VALIDATION are folders with a sub-folder for each class, read and augmented as Keras' own tutorial
on this data does. `steps N` trains N steps and prints {"seconds", "waited"}; `validate` prints {"accuracy"}.
"""

import json
import os
import sys
import time

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
from keras import layers

# times, channels, kernel, stride, expansion (Tan and Le 2019; Lite: ReLU6, no squeeze-and-excitation)
STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)


def norm(x, *, activate=True):
    x = layers.BatchNormalization(epsilon=1e-3)(x)
    return layers.ReLU(6.0)(x) if activate else x


def block(x, channels, kernel, stride, expansion):
    narrow = x
    if expansion > 1:
        x = norm(layers.Conv2D(x.shape[-1] * expansion, 1, use_bias=False)(x))
    x = norm(layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(x))
    x = norm(layers.Conv2D(channels, 1, use_bias=False)(x), activate=False)
    return layers.Add()([narrow, x]) if stride == 1 and narrow.shape[-1] == channels else x


def network(classes):
    images = layers.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, -1)(images)
    x = norm(layers.Conv2D(32, 3, 2, "same", use_bias=False)(x))
    for times, channels, kernel, stride, expansion in STAGES:
        for number in range(times):
            x = block(x, channels, kernel, stride if number == 0 else 1, expansion)
    x = norm(layers.Conv2D(1280, 1, use_bias=False)(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(classes)(x))


def load(model, path):
    """ImageNet weights, in order; kernels are [out, in, h, w] there and [h, w, in, out] here."""
    with np.load(path) as stored:
        tensors = [stored[name] for name in sorted(stored.files)]
    weights = model.get_weights()  # layer by layer: kernel, then gamma, beta, mean, variance
    for index, tensor in enumerate(tensors):
        depthwise = tensor.ndim == 4 and tensor.shape[1] == 1 and weights[index].shape[-1] == 1
        turned = tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)) if tensor.ndim == 4 else tensor
        if weights[index].shape != turned.shape:
            raise ValueError(f"tensor {index}: {turned.shape} for {weights[index].shape}")
        weights[index] = turned
    model.set_weights(weights)


def photos(folder, size, batch_size, *, shuffle):
    return keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch_size, shuffle=shuffle, seed=1, verbose=False
    )


def main(train, validation, size, batch_size, learning_rate, weights):
    import tensorflow as tf

    size, batch_size = int(size), int(batch_size)
    augment = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])
    data = photos(train, size, batch_size, shuffle=True)
    model = network(len(data.class_names))
    load(model, weights)
    model.compile(
        keras.optimizers.AdamW(float(learning_rate)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    changed = data.map(lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    batches = iter(changed.repeat().prefetch(tf.data.AUTOTUNE))
    for line in sys.stdin:
        if line.startswith("validate"):
            held = photos(validation, 224, batch_size, shuffle=False)
            answer = {"accuracy": model.evaluate(held, verbose=0, return_dict=True)["accuracy"]}
        else:
            began, waited = time.perf_counter(), 0.0
            for _ in range(int(line.split()[1])):
                asked = time.perf_counter()
                images, classes = next(batches)
                waited += time.perf_counter() - asked
                model.train_on_batch(images, classes)
            answer = {"seconds": time.perf_counter() - began, "waited": waited}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
