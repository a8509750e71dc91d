"""`python -m training COMMAND`: the stages of dvc.yaml, and what is done beside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace

from common.errors import PipelineError
from training.fit import allocator

_DATA = "configs/data.yaml"
_TRAIN = "configs/train.yaml"


def _fetch(arguments: list[str]) -> None:
    """Bring the photos to data/raw; the variable DATA overrides the source."""
    from training import config
    from training.photos import sources

    settings = config.parse(
        config.DataConfig, _DATA, arguments, prog="training fetch", about=_fetch.__doc__ or ""
    )
    wanted = os.environ.get("DATA") or settings.fetch.source  # a place to get photos, not part of them
    report = sources.fetch(replace(settings.fetch, source=wanted))
    counts = ", ".join(f"{count} {label}" for label, count in report.files.items())
    print(f"fetched {counts} from {report.source} {report.name} (sha256 {report.sha256[:12]}…)")


def _prepare(arguments: list[str]) -> None:
    """Check, group and split the photos; write the manifest."""
    import json

    from training import config
    from training.photos import prepare

    settings = config.parse(
        config.DataConfig, _DATA, arguments, prog="training prepare", about=_prepare.__doc__ or ""
    )
    print(json.dumps(prepare.prepare(settings.prepare), indent=2))


def _teach(arguments: list[str]) -> None:
    """Train the larger network that the served one learns from; write its answers."""
    from training import config, teacher

    teacher.teach(
        config.parse(config.TrainConfig, _TRAIN, arguments, prog="training teach", about=_teach.__doc__ or "")
    )


def _fit(arguments: list[str]) -> None:
    """Train: head on frozen features, then the whole network; track it in MLflow."""
    from training import config
    from training.fit import stage

    stage.fit(
        config.parse(config.TrainConfig, _TRAIN, arguments, prog="training fit", about=_fit.__doc__ or "")
    )


def _export(arguments: list[str]) -> None:
    """Calibrate the best checkpoint and write it as models/model.pt."""
    from training import config
    from training.export import stage

    stage.export(
        config.parse(
            config.TrainConfig, _TRAIN, arguments, prog="training export", about=_export.__doc__ or ""
        )
    )


def _audit(arguments: list[str]) -> None:
    """Rank probable wrong labels by what other photos say; for a person to review."""
    from training import config
    from training.study import audit

    audit.audit(
        config.parse(config.TrainConfig, _TRAIN, arguments, prog="training audit", about=_audit.__doc__ or "")
    )


def _ablation(arguments: list[str]) -> None:
    """Train with each part of the recipe left out; say what each is worth."""
    import argparse

    from training import config
    from training.study import ablation

    parser = argparse.ArgumentParser(prog="python -m training ablation", description=ablation.__doc__)
    parser.add_argument("--share", type=int, default=6, help="train on one of so many training photos")
    settings = config.parse(config.TrainConfig, _TRAIN, [], prog="training ablation", about="")
    ablation.ablate(parser.parse_args(arguments).share, settings)


def _bench(arguments: list[str]) -> None:
    """Measure photos a second in fine-tuning, or the time to an accuracy, beside other loops."""
    import argparse

    from training import config
    from training.study.bench import loops, run

    parser = argparse.ArgumentParser(
        prog="python -m training bench",
        description=run.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=int, default=160, help="side of the crops, in pixels")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--to", type=float, help="train to this accuracy instead (an hour)")
    parser.add_argument("--passes", type=int, default=2, help="after which --to is given up")
    parser.add_argument("--keras", choices=("true", "false"), default="true")
    options = parser.parse_args(arguments)
    settings = config.parse(config.TrainConfig, _TRAIN, [], prog="training bench", about="")
    made, keras = loops.prepare(settings, options.size), options.keras == "true"
    if options.to:
        print(run.race_as_markdown(run.race(made, options.to, options.passes, keras=keras), options.to))
    else:
        print(run.rates_as_markdown(run.bench(made, options.turns, options.steps, keras=keras)))


def _track(arguments: list[str]) -> None:
    """Keep a live evaluation (reports/live) as a run in MLflow."""
    import argparse
    from pathlib import Path

    from training import config, tracking

    parser = argparse.ArgumentParser(prog="python -m training track", description=_track.__doc__)
    parser.add_argument("folder", type=Path, help="what evaluation.service.live wrote")
    folder = parser.parse_args(arguments).folder
    settings = config.parse(config.TrainConfig, _TRAIN, [], prog="training track", about="")
    print(f"MLflow run {tracking.log_live(settings.tracking, folder)}")


def _promote(arguments: list[str]) -> None:
    """Give the registered version of an artefact the alias @champion."""
    import argparse
    from pathlib import Path

    from serving.contract import artifact
    from training import config, tracking

    parser = argparse.ArgumentParser(prog="python -m training promote", description=_promote.__doc__)
    parser.add_argument("model", type=Path, help="the artefact, as models/model.pt")
    loaded = artifact.read(parser.parse_args(arguments).model)
    card = loaded.card
    alias = "champion" if card.precision == "fp32" else f"champion-{card.precision}"
    settings = config.parse(config.TrainConfig, _TRAIN, [], prog="training promote", about="")
    version = tracking.promote(settings.tracking, card.name, loaded.sha256, alias)
    print(f"{card.name} version {version} is @{alias}")


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "fetch": _fetch,
    "prepare": _prepare,
    "teach": _teach,
    "fit": _fit,
    "export": _export,
    "audit": _audit,
    "ablation": _ablation,
    "bench": _bench,
    "promote": _promote,
    "track": _track,
}


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    if not arguments or arguments[0] not in _COMMANDS:
        asked = arguments[:1] in (["-h"], ["--help"])
        print("usage: python -m training COMMAND [--help] [--key value ...]\n")
        for name, command in _COMMANDS.items():
            print(f"  {name:9} {command.__doc__}")
        return 0 if asked else 2
    allocator.keep_freed()
    try:
        _COMMANDS[arguments[0]](arguments[1:])
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
            "Nothing half-written was left under a final name; mend the cause and run it again.",
            sep="\n",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted: nothing half-written was left; run it again to go on.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
