"""The network: packaged weights tensor by tensor, normalisation inside, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import PipelineError
from tests.tiny import SIDE, train_config
from training.network import predict
from training.network.build import Classifier, build
from training.network.predict import predict_all
from training.network.weights import PACKAGED
from training.photos.drawn import draw


def configured(backbone: str, *more: str) -> Classifier:
    """A classifier with two classes."""
    overrides = ("--model.backbone", backbone, "--model.weights", "pretrained", "--model.input_size", "224")
    return build(train_config(*overrides, *more).model, 2)


@pytest.fixture(scope="module", params=PACKAGED)
def pretrained(request: pytest.FixtureRequest) -> Classifier:
    """A network with its packaged weights."""
    return configured(request.param).eval()


@pytest.mark.parametrize("backbone", PACKAGED)
def test_every_packaged_tensor_is_in_its_place(backbone: str):
    """Each tensor of the file except its classifier's, in order, under a name of the same kind."""
    pretrained = configured(backbone)
    stored = [
        (n, t)
        for n, t in torch.load(PACKAGED[backbone](), weights_only=True).items()
        if not n.endswith("num_batches_tracked")
    ]
    ours = [
        (n, t) for n, t in pretrained.backbone.state_dict().items() if not n.endswith("num_batches_tracked")
    ]
    assert len(stored) == {"efficientnet_lite0": 247}[backbone]
    assert len(ours) == len(stored) - 2
    for (name, tensor), (_, source) in zip(ours, stored, strict=False):
        assert torch.equal(tensor, source), name
    assert {m.eps for m in pretrained.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_the_weights_distinguish_pictures(pretrained: Classifier):
    """Features of a picture agree with those of its mirror image and differ from other pictures'.

    A wrong order of tensors, or a wrong eps or scale, fails here: all pictures then look the same to the
    network.
    """
    rng = np.random.default_rng(3)
    pictures = [np.asarray(draw(label, rng).resize((224, 224))) for label in ("cat", "dog", "cat", "dog")]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        features = nn.functional.normalize(pretrained.features(images))
        mirrored = nn.functional.normalize(pretrained.features(images.flip(3)))
    same = (features * mirrored).sum(1)
    different = features @ features.T - torch.eye(4)
    assert same.min() > different.max() + 0.05


def test_weights_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch):
    """A version of timm with other names or shapes must not silently train from noise."""
    stored = torch.load(PACKAGED["efficientnet_lite0"](), weights_only=True)
    shuffled = dict(sorted(stored.items(), key=lambda item: item[1].numel()))
    monkeypatch.setattr(torch, "load", lambda *_, **__: shuffled)
    with pytest.raises(PipelineError, match="does not fit"):
        configured("efficientnet_lite0")
    monkeypatch.setattr(torch, "load", lambda *_, **__: dict(list(stored.items())[:-5]))
    with pytest.raises(PipelineError, match="Another version"):
        configured("efficientnet_lite0")


@pytest.mark.parametrize("backbone", ["compact", "efficientnet_lite0", "mobilenetv3_small_050"])
def test_uint8_in_logits_out(backbone: str):
    """Any batch size; normalisation is inside, so eight-bit values go in unchanged."""
    network = configured(backbone, "--model.weights", "none", "--model.input_size", "64").eval()
    with torch.inference_mode():
        logits = network(torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8))
    assert logits.shape == (3, 2)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "words"),
    [("efficientnet_litt0", "Near names: .*efficientnet"), ("compact", "from scratch")],
)
def test_an_impossible_backbone_is_reported(backbone: str, words: str):
    """With similar names, or the setting to change."""
    with pytest.raises(PipelineError, match=words):
        configured(backbone)


def test_predictions_are_those_of_the_eager_network_wherever_they_are_computed():
    """Fused on cores, photo by photo, or in batches as on an accelerator; the network is left as it was."""
    network = build(train_config().model, 3).train()
    images = np.random.default_rng(3).integers(0, 256, (7, 3, SIDE, SIDE), dtype=np.uint8)
    found = predict_all(network, images)
    assert network.training
    network.eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    in_batches = predict._on_device(network, images, range(7), torch.device("cpu"), "photos").numpy()
    np.testing.assert_allclose(in_batches, expected, atol=1e-5)
    every_second = predict_all(network, images, chosen=range(1, 7, 2))  # of the second of two processes
    np.testing.assert_allclose(every_second, expected[1::2], atol=1e-5)
