"""Values of the recipe searched with Optuna: short trainings, judged by the calibrated loss on validation."""

from __future__ import annotations

import math
import time
from typing import Final

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from common.files import write_text
from evaluation.figures import metrics
from training.config import TrainConfig
from training.fit import checkpoint
from training.fit.job import fingerprint
from training.fit.phases import Diverged
from training.photos.manifest import Manifest, every_nth_for_training, read_manifest
from training.place import Place
from training.study.variants import shortened, train
from training.tracking import Tracker

SPACE: Final[dict[str, optuna.distributions.FloatDistribution]] = {
    "finetune.learning_rate": optuna.distributions.FloatDistribution(2e-5, 1e-3, log=True),
    "finetune.weight_decay": optuna.distributions.FloatDistribution(1e-4, 0.1, log=True),
    "finetune.label_smoothing": optuna.distributions.FloatDistribution(0.0, 0.1),
    "finetune.ema_share": optuna.distributions.FloatDistribution(0.0, 0.3),
    "model.dropout": optuna.distributions.FloatDistribution(0.0, 0.5),
    "augment.crop_scale_min": optuna.distributions.FloatDistribution(0.3, 0.9),
}
"""What is searched: key of `configs/train.yaml`, and its range."""
_PARENT: Final = "mlflow_run_id"
_MINUTES: Final = "minutes"
_ACCURACY: Final = "accuracy"
_ERROR: Final = "error"


def search(share: int, trials: int, place: Place) -> None:
    """Run trials until there are `trials` in all, on one of every `share` training photos; write `table.md`.

    Raises:
        PipelineError: there is no manifest, there are too few photos, or MLflow does not answer.
    """
    manifest = every_nth_for_training(read_manifest(place), share)
    config = shortened({}, place, "tune")
    study = _open_study(config, manifest, place)
    table = place.tune / "table.md"
    with _open_run(study, config, manifest) as parent:
        while (done := len(_finished(study))) < trials:
            trial = study.ask(dict(SPACE))
            print(f"== trial {done + 1} of {trials}: {_options(trial.params)}", flush=True)
            _run_trial(study, trial, manifest, place, parent.run_id)
            print(f"== {_cost(study)}; {trials - done - 1} trials to go", flush=True)
            write_text(table, as_markdown(study, len(manifest.splits["train"].paths)))
        text = as_markdown(study, len(manifest.splits["train"].paths))
        write_text(table, text)
        parent.log_file(table)
    print(text)


def _open_study(config: TrainConfig, manifest: Manifest, place: Place) -> optuna.Study:
    """The study of these photos and this recipe, in which an interrupted trial is the next one again."""
    place.tune.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{place.tune.absolute()}/study.db",
        study_name=fingerprint(config, manifest),
        load_if_exists=True,
    )
    # With the seed alone, a resumed search would draw its first values again.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)  # its training resumes
    return study


def _open_run(study: optuna.Study, config: TrainConfig, manifest: Manifest) -> Tracker:
    """The MLflow run of the whole search, new or resumed."""
    parent = Tracker(config.tracking, study.user_attrs.get(_PARENT))
    study.set_user_attr(_PARENT, parent.run_id)
    parent.set_tags({"mlflow.runName": f"search {study.study_name}", "data.manifest_sha256": manifest.sha256})
    return parent


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ran to their end, failed ones included."""
    return [trial for trial in study.trials if trial.state.is_finished() and _MINUTES in trial.user_attrs]


def _run_trial(study: optuna.Study, trial: Trial, manifest: Manifest, place: Place, parent: str) -> None:
    """Train with a trial's values; record the loss, or that there is none."""
    began = time.monotonic()
    state, loss = TrialState.COMPLETE, None
    try:
        loss = _train(trial, manifest, place, parent)
    except (Diverged, RuntimeError) as error:  # torch's; a fault of the pipeline or of MLflow ends the search
        state = TrialState.FAIL
        trial.set_user_attr(_ERROR, str(error))
        print(f"this trial failed: {error}")
    trial.set_user_attr(_MINUTES, (time.monotonic() - began) / 60)
    study.tell(trial, loss, state=state)


def _train(trial: Trial, manifest: Manifest, place: Place, parent: str) -> float:
    own = Place(place.tune)
    config = shortened({name: repr(value) for name, value in trial.params.items()}, place, "tune")
    found, _ = train(config, manifest, own, {"mlflow.parentRunId": parent, "tune.trial": str(trial.number)})
    loss = metrics.calibrated_loss(found.log_probabilities, found.targets)
    trial.set_user_attr(_ACCURACY, metrics.accuracy(found.log_probabilities, found.targets).value)
    with Tracker(config.tracking, checkpoint.read_run(own.run).mlflow_run_id) as run:
        run.log_metrics({"validation_calibrated_loss": loss})
    return loss


def _options(values: dict[str, float]) -> str:
    return " ".join(f"--{name} {value:.4g}" for name, value in values.items())


def _cost(study: optuna.Study) -> str:
    done = _finished(study)
    minutes = [trial.user_attrs[_MINUTES] for trial in done]
    each = f", {sum(minutes) / len(done):.1f} each" if done else ""
    return f"{len(done)} trials in {sum(minutes):.1f} minutes{each}"


def as_markdown(study: optuna.Study, photos: int) -> str:
    """The trials, best first, and what they cost."""
    about = (
        f"{photos} training photos; {_cost(study)}. Loss on validation in nats, after calibration. The best "
        "of many trials is partly luck, and its loss here is too low: train it in full, next to the present "
        "recipe, before you believe it."
    )
    lines = [about, "", "| trial | loss | accuracy | minutes | options |", "| --- " * 5 + "|"]
    for trial in sorted(_finished(study), key=lambda trial: math.inf if trial.value is None else trial.value):
        failed = trial.value is None
        cells = (
            str(trial.number),
            "failed" if failed else f"{trial.value:.4f}",
            "" if failed else f"{trial.user_attrs[_ACCURACY]:.2%}",
            f"{trial.user_attrs[_MINUTES]:.1f}",
            f"`{_options(trial.params)}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
