"""Values of the recipe searched with Optuna: short trainings, judged by the calibrated loss on validation."""

from __future__ import annotations

import time
from typing import Final

import optuna

from common.files import write_text
from evaluation.figures import metrics
from training.fit import checkpoint
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
_RUN: Final = "mlflow_run_id"
_MINUTES: Final = "minutes"


def search(share: int, trials: int, place: Place) -> None:
    """Run trials until there are `trials` in all, on one of every `share` training photos; write `table.md`.

    Raises:
        PipelineError: there is no manifest, there are too few photos, or MLflow does not answer.
    """
    manifest = every_nth_for_training(read_manifest(place), share)
    config = shortened({}, place, "tune")
    place.tune.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{place.tune.absolute()}/study.db",
        study_name=manifest.sha256[:12],  # tied to these photos
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    parent = Tracker(config.tracking, study.user_attrs.get(_RUN))
    study.set_user_attr(_RUN, parent.run_id)
    parent.set_tags({"mlflow.runName": f"search {study.study_name}", "data.manifest_sha256": manifest.sha256})
    _take_up_interrupted(study)
    try:
        while len(_finished(study)) < trials:
            trial = study.ask(dict(SPACE))
            print(f"== trial {len(_finished(study)) + 1} of {trials}: {_options(trial.params)}", flush=True)
            state, loss = _train(trial, manifest, place, parent.run_id)
            study.tell(trial, loss, state=state)
    finally:
        text = as_markdown(study, len(manifest.splits["train"].paths))
        write_text(place.tune / "table.md", text)
        parent.log_file(place.tune / "table.md")
        parent.finish()
    print(text)


def _take_up_interrupted(study: optuna.Study) -> None:
    """Give the values of a trial that was interrupted to the next one, whose training resumes."""
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that were trained to their end, diverged ones included."""
    return [trial for trial in study.trials if _MINUTES in trial.user_attrs]


def _train(
    trial: optuna.Trial, manifest: Manifest, place: Place, parent: str
) -> tuple[optuna.trial.TrialState, float | None]:
    own = Place(place.tune)
    config = shortened({name: repr(value) for name, value in trial.params.items()}, place, "tune")
    began = time.monotonic()
    found, _ = train(config, manifest, own)
    trial.set_user_attr(_MINUTES, (time.monotonic() - began) / 60)
    loss = metrics.calibrated_loss(found.log_probabilities, found.targets)
    run = Tracker(config.tracking, checkpoint.read_run(own.run).mlflow_run_id)
    run.set_tags({"mlflow.parentRunId": parent, "tune.trial": str(trial.number)})
    finite = loss == loss  # noqa: PLR0124 (not NaN)
    if finite:
        run.log_metrics({"validation_calibrated_loss": loss})
        trial.set_user_attr("accuracy", metrics.accuracy(found.log_probabilities, found.targets).value)
    run.finish()
    return (optuna.trial.TrialState.COMPLETE, loss) if finite else (optuna.trial.TrialState.FAIL, None)


def _options(values: dict[str, float]) -> str:
    return " ".join(f"--{name} {value:.4g}" for name, value in values.items())


def as_markdown(study: optuna.Study, photos: int) -> str:
    """The trials, best first, and what they cost."""
    done = _finished(study)
    minutes = sum(trial.user_attrs[_MINUTES] for trial in done)
    about = (
        f"{photos} training photos; {len(done)} trials in {minutes:.0f} minutes. Loss on validation in "
        f"nats, after calibration. The best of many trials is partly luck: train it in full before you "
        f"believe it."
    )
    lines = [about, "", "| trial | loss | accuracy | minutes | values |", "| --- " * 5 + "|"]
    for trial in sorted(done, key=lambda trial: trial.value if trial.value is not None else float("inf")):
        good = trial.value is not None
        cells = (
            str(trial.number),
            f"{trial.value:.4f}" if good else "diverged",
            f"{trial.user_attrs['accuracy']:.2%}" if good else "",
            f"{trial.user_attrs[_MINUTES]:.1f}",
            f"`{_options(trial.params)}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
