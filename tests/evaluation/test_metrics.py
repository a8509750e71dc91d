"""The figures agree with textbooks and with scikit-learn."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as reference

from evaluation.figures import intervals, metrics

cases = st.integers(2, 4).flatmap(
    lambda classes: st.tuples(st.just(classes), st.integers(5, 60), st.integers(0, 2**32 - 1))
)


def drawn(classes: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities `f[N,K]` and targets that hold every class."""
    random = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), random.integers(0, classes, n)])
    return random.dirichlet(np.ones(classes), len(targets)), targets


@settings(deadline=None)
@given(cases)
def test_figures_agree_with_scikit_learn(case: tuple[int, int, int]):
    """Accuracy, log loss, AUC and the confusion matrix."""
    probabilities, targets = drawn(*case)
    predicted = probabilities.argmax(1)
    accuracy = metrics.accuracy(probabilities, targets)
    assert accuracy.value == pytest.approx(reference.accuracy_score(targets, predicted))
    loss = metrics.log_loss(probabilities, targets)
    assert loss == pytest.approx(reference.log_loss(targets, probabilities))
    score = probabilities[:, 1] if case[0] == 2 else probabilities
    auc = reference.roc_auc_score(targets, score, multi_class="ovr")
    assert metrics.roc_auc(probabilities, targets).value == pytest.approx(auc)
    table = reference.confusion_matrix(targets, predicted, labels=range(case[0]))
    assert metrics.confusion(probabilities, targets).tolist() == table.tolist()


def test_one_record_holds_all_figures():
    """Each with value, interval and n; precision and recall per class; valid JSON."""
    probabilities, targets = drawn(3, 60, 1)
    labels = ["bird", "cat", "dog"]
    figures = metrics.evaluate(probabilities, targets, labels)
    predicted = probabilities.argmax(1)
    for name, score in (("precision", reference.precision_score), ("recall", reference.recall_score)):
        expected = score(targets, predicted, average=None)
        found = getattr(figures, name)
        assert [found[label].value for label in labels] == pytest.approx(list(expected))
    for name in ("accuracy", "macro_accuracy", "log_loss", "brier", "ece", "roc_auc"):
        figure = getattr(figures, name)
        assert figure.low <= figure.value <= figure.high
        assert figure.n == 63
    expected = reference.balanced_accuracy_score(targets, predicted)
    assert figures.macro_accuracy.value == pytest.approx(expected)
    assert intervals.decode(msgspec.json.encode(figures), metrics.Evaluation) == figures


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_is_the_published_interval(hits: int, n: int):
    """The formula of Wilson (1927); the value lies inside the interval."""
    figure = intervals.wilson(min(hits, n), n)
    z, p = 1.959964, min(hits, n) / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    assert (figure.low, figure.high) == pytest.approx(expected, abs=1e-6)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_calibration_error_by_hand():
    """Ten photos at 0.95, nine right: a gap of 0.05; ten at 0.65, five right: 0.15; mean 0.1."""
    confidence = np.repeat([0.95, 0.65], 10)
    targets = np.array([0] * 9 + [1] + [0] * 5 + [1] * 5)
    probabilities = np.stack([confidence, 1 - confidence], 1)
    assert metrics.expected_calibration_error(probabilities, targets) == pytest.approx(0.1)
    assert [(b.n, b.accuracy) for b in metrics.reliability(probabilities, targets)] == [(10, 0.5), (10, 0.9)]


def test_the_loss_at_certainty_is_clipped():
    """A wrong prediction at probability 1 costs much, but not infinitely much."""
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_what_is_not_defined_is_null_and_a_dash():
    """A single class has no AUC; without photos there is no accuracy."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    figures = metrics.evaluate(probabilities, np.zeros(2, int), ["cat", "dog"])
    assert np.isnan(figures.roc_auc.value)
    assert intervals.show(figures.roc_auc) == ("-", "- to -", "2")
    text = msgspec.json.encode(intervals.wilson(0, 0))
    assert json.loads(text) == {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    assert np.isnan(intervals.decode(text, intervals.Figure).value)


def test_a_class_that_is_never_predicted_shows():
    """95 of 100 photos are of one class: accuracy is 0.95, the mean recall 0.5, the lowest recall 0."""
    probabilities, targets = np.tile([0.9, 0.1], (100, 1)), np.array([0] * 95 + [1] * 5)
    figures = metrics.evaluate(probabilities, targets, ["common", "rare"])
    assert figures.accuracy.value == 0.95
    assert figures.macro_accuracy.value == 0.5
    assert figures.lowest_recall.value == 0
    assert figures.lowest_recall.high == pytest.approx(0.434, abs=0.001)
    assert figures.macro_accuracy.high == pytest.approx(0.717, abs=0.005)
    assert figures.top5_accuracy is None


@given(cases)
def test_the_five_most_probable_agree_with_scikit_learn(case: tuple[int, int, int]):
    """For more classes than five."""
    probabilities, targets = drawn(case[0] + 6, *case[1:])
    expected = reference.top_k_accuracy_score(targets, probabilities, k=5)
    assert metrics.top_accuracy(probabilities, targets, 5).value == pytest.approx(expected)


@pytest.mark.parametrize(("classes", "n"), [(2, 60), (4, 120)])
def test_the_interval_of_the_area_covers_the_truth(classes: int, n: int):
    """About 95 of 100 samples: scores are normal, and one deviation higher on photos of the class."""
    random, truth, held = np.random.default_rng(5), norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(400):
        targets = np.arange(n) % classes
        scores = random.normal(size=(n, classes)) + np.eye(classes)[targets]
        if classes == 2:
            scores[:, 1] = random.normal(size=n) + targets
        figure = metrics.roc_auc(scores, targets)
        held += figure.low <= truth <= figure.high
    assert held / 400 >= 0.92
    assert classes > 2 or held / 400 <= 0.99, "the mean of several areas has a wider interval than it needs"


def calibrated(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes and targets drawn from them; about one answer in a hundred is wrong."""
    first = 1 / (1 + np.exp(-np.abs(random.normal(8, 3.2, n))))
    return np.stack([first, 1 - first], 1), (random.uniform(size=n) > first).astype(int)


def test_the_calibration_error_of_a_calibrated_model_is_no_more_than_chance():
    """Its interval holds 0 in about 97 of 100 sets, although the value never is 0."""
    random = np.random.default_rng(3)
    found = [metrics.calibration_error(*calibrated(500, random), seed) for seed in range(200)]
    assert min(figure.value for figure in found) > 0
    assert np.mean([figure.low == 0 for figure in found]) > 0.94
    assert np.mean([figure.value for figure in found]) == pytest.approx(
        np.mean([figure.null for figure in found]), rel=0.1
    )


def test_the_calibration_error_of_an_overconfident_model_is():
    """Certain to 99 %, right in 90 %: the lower end is well above 0, and the interval holds the gap."""
    random = np.random.default_rng(4)
    targets = (random.uniform(size=1000) > 0.9).astype(int)
    figure = metrics.calibration_error(np.tile([0.99, 0.01], (1000, 1)), targets)
    assert 0.05 < figure.low < 0.09 < figure.high
    assert figure.null_high < 0.02


def test_the_brier_score_agrees_with_scikit_learn():
    """The score of two classes there is half of the sum over both classes."""
    probabilities, targets = drawn(2, 60, 3)
    expected = 2 * reference.brier_score_loss(targets, probabilities[:, 1], scale_by_half=True)
    assert metrics.brier_scores(probabilities, targets).mean() == pytest.approx(expected)


def test_the_intervals_of_losses_end_at_the_worst_there_is():
    """One confident mistake among many certain answers: its deviates have no bound."""
    probabilities = np.full((103, 2), [1 - 1e-9, 1e-9])
    targets = np.zeros(103, dtype=np.int64)
    targets[0] = 1
    found = metrics.evaluate(probabilities, targets, ["cat", "dog"])
    worst = -np.log(metrics._LEAST_PROBABILITY)
    for figure, most in ((found.brier, 2), (found.log_loss, worst)):
        assert figure is not None
        assert 0 <= figure.low <= figure.value <= figure.high <= most


def test_a_ratio_of_means_is_paired():
    """Two models with the same losses have the ratio 1 exactly; twice the losses 2, however they vary."""
    losses = np.random.default_rng(1).exponential(size=300)
    assert intervals.ratio_of_means(losses, losses) == intervals.Figure(1.0, 1.0, 1.0, 300)
    assert intervals.ratio_of_means(2 * losses, losses).high == pytest.approx(2)
    zeros = np.zeros(300)
    assert intervals.ratio_of_means(zeros, zeros).value == 1
    assert intervals.ratio_of_means(losses, zeros).value == np.inf


def test_trials_on_the_same_photo_count_less():
    """Ten trials that always agree are worth one, independent ones ten; without a miss, photos count."""
    random = np.random.default_rng(1)
    photos = random.uniform(size=(200, 1)) < 0.9
    same = intervals.share_of_clusters(np.repeat(photos, 10, axis=1))
    alone = intervals.wilson(int(photos.sum()), 200)
    assert (same.low, same.high) == pytest.approx((alone.low, alone.high), abs=0.002)
    free = intervals.share_of_clusters(random.uniform(size=(200, 10)) < 0.9)
    assert free.high - free.low == pytest.approx((alone.high - alone.low) / np.sqrt(10), rel=0.25)
    none = intervals.share_of_clusters(np.ones((200, 10), bool))
    assert none.low == pytest.approx(intervals.wilson(200, 200).low)


def test_the_interval_of_a_median_is_between_order_statistics():
    """Of 1 to 100: the 40th and the 61st value (Conover 1999); of five values there is none."""
    found = intervals.median(np.arange(1.0, 101))
    assert (found.value, found.low, found.high) == (50.5, 40, 61)
    assert np.isnan(intervals.median(np.arange(5.0)).low)


def test_values_that_are_all_the_same_have_an_interval_of_one_point():
    """A single value has no interval."""
    figure = intervals.mean(np.full(50, 0.25))
    assert (figure.low, figure.value, figure.high) == (0.25, 0.25, 0.25)
    assert np.isnan(intervals.mean(np.array([0.25])).low)


def test_the_abstain_threshold_keeps_its_promise():
    """At most one in a hundred accepted predictions is wrong, in at least 95 of 100 draws of 2,000 photos."""
    random, broken = np.random.default_rng(2), 0
    for _ in range(200):
        probabilities, targets = calibrated(2000, random)
        threshold, bound = metrics.abstain_threshold(probabilities, targets, 0.01)
        assert bound <= 0.01
        others, truth = calibrated(100_000, random)
        accepted = others.max(1) >= threshold
        broken += (others.argmax(1) != truth)[accepted].mean() > 0.01
        assert accepted.mean() > 0.8
    assert broken <= 10


def test_too_few_photos_show_a_weaker_bound():
    """A hundred right predictions are accepted, but do not show that less than one in a hundred is wrong."""
    confidence = np.linspace(0.6, 0.99, 100)
    probabilities, right = np.stack([1 - confidence, confidence], 1), np.ones(100, int)
    found = metrics.abstain_threshold(probabilities, right, 0.01)
    assert found.threshold == pytest.approx(0.6)
    assert 0.05 < found.bound < 0.1
    assert metrics.abstain_threshold(probabilities, right, 0.2).bound < 0.2
    assert metrics.abstain_threshold(probabilities, np.zeros(100, int), 0.2) == (1.0, 1.0)


def test_the_difference_of_two_shares_has_newcombes_interval():
    """56 of 70 against 48 of 80: the published example (Newcombe 1998, table II, contrast a, method 10)."""
    found = intervals.difference(intervals.wilson(56, 70), intervals.wilson(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
