"""Raw photos in, manifest out: every file is kept with its split, or dropped with its reason.

Near-duplicates, found by perceptual hash, form a group, and a group stays in one split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from common import files
from common.errors import PipelineError
from common.manifest import read_manifest
from common.production import PRODUCTION
from training.config import PrepareConfig
from training.photos.inspect import inspect_all, list_files
from training.photos.near_duplicates import (
    group_near_duplicates,
    stable_group_names,
    without_bridges,
    without_conflicts,
)
from training.photos.production import NEAR_TEST, isolated
from training.photos.report import Batch, read_batches
from training.photos.split import (
    SPLITS,
    assign_all_splits,
    collected_photos,
    known_splits,
    near_owner_test,
    owner_test,
    split_settings,
)
from training.place import Place

_COLUMNS = ["path", "label", "split", "sha256", "phash", "group", "width", "height", "bytes"]


def prepare(config: PrepareConfig, place: Place) -> dict[str, object]:
    """Check, group and split the raw photos; write the manifest.

    Returns:
        The summary, which is also written: counts by split, class and reason.

    Raises:
        PipelineError: there are no photos, a class has no usable ones, or the shares leave none to train on.
    """
    if config.validation_share + config.test_share >= 1:
        raise PipelineError(
            "prepare.validation_share and prepare.test_share leave nothing to train on. "
            "Lower their sum below 1 in configs/data.yaml."
        )
    inspected = list(inspect_all(place.raw, list_files(place.raw)))
    classes = {row.label for row in inspected}
    kept = pd.DataFrame([row for row in inspected if not row.reason])
    dropped = pd.DataFrame(
        [(r.path, r.label, r.bytes, r.reason) for r in inspected if r.reason],
        columns=["path", "label", "bytes", "reason"],
    )
    _check_classes(classes, kept)
    kept_test = owner_test(place)
    if kept_test:
        config = replace(config, test_share=0.0)
    known = known_splits(kept, config, place)
    collected = collected_photos(kept, place)
    kept, near_tests = isolated(kept, known, collected, config.near_duplicate_bits)
    drawn = known[kept.index] == PRODUCTION
    production, contradictory = _production(kept[drawn], config.near_duplicate_bits)
    kept, conflicting = _grouped(kept[~drawn], config.near_duplicate_bits)
    known = near_owner_test(kept, known, place)
    kept, bridging = without_bridges(kept, known, config.near_duplicate_bits)
    dropped = pd.concat(
        [dropped, near_tests, contradictory, conflicting, bridging], ignore_index=True
    ).sort_values("path")
    _check_classes(classes, kept)
    kept["group"] = stable_group_names(kept)
    kept["split"] = assign_all_splits(kept, config, known, collected[kept.index])
    joining = collected[kept.index] & (kept["split"] == "test")  # with a group that is in test only now
    near = kept.loc[joining, ["path", "label", "bytes"]].assign(reason=NEAR_TEST)
    kept, dropped = kept[~joining].copy(), pd.concat([dropped, near], ignore_index=True).sort_values("path")
    _check_splits(kept)
    kept = pd.concat([kept, production]) if len(production) else kept
    kept["phash"] = [f"{value:016x}" for value in kept["phash"]]
    summary = _summarise(kept, dropped) | {"settings": split_settings(config)}
    if kept_test:
        summary["kept_test"] = kept_test
    assert len(kept[["group", "split"]].drop_duplicates()) == kept["group"].nunique()  # noqa: S101 (no leaks)
    columns = _COLUMNS
    if batches := read_batches(place.fetch_report):
        kept["source"] = _sources(kept, batches)
        columns = [*_COLUMNS, "source"]
    with files.atomic_folder(place.prepared) as folder:
        kept.sort_values("path")[columns].to_csv(folder / place.manifest.name, index=False)
        dropped.to_csv(folder / place.dropped.name, index=False)
        files.write_json(folder / place.summary.name, summary)
    return summary


def _grouped(photos: pd.DataFrame, bits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Group near-duplicates, and drop those that carry different labels."""
    photos = photos.assign(group=group_near_duplicates(photos["phash"].to_numpy(np.uint64), bits))
    return without_conflicts(photos, bits)


def _production(photos: pd.DataFrame, bits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same for the production test set, which is a split as it is."""
    if photos.empty:
        return photos, photos[["path", "label", "bytes"]].assign(reason="")
    kept, conflicting = _grouped(photos, bits)
    return kept.assign(group=stable_group_names(kept), split=PRODUCTION), conflicting


def _sources(kept: pd.DataFrame, batches: Sequence[Batch]) -> pd.Series:
    """The folder of the batch that added each photo; empty for the others."""
    folder = kept["path"].str.split("/").str[1]
    return folder.where(folder.isin([name for batch in batches for name in batch.files]), "")


def of_last_batch(place: Place) -> str:
    """What became of the photos that were added last, for a person; empty if none were added."""
    batches = read_batches(place.fetch_report)
    if not batches:
        return ""
    rows = read_manifest(place.manifest)
    splits = rows.loc[rows["source"].isin(list(batches[-1].files)), "split"].value_counts()
    dropped = pd.read_csv(place.dropped, dtype=str, keep_default_na=False)
    reasons = dropped.loc[_sources(dropped, batches[-1:]) != "", "reason"].value_counts()
    became = [f"{name} {splits[name]:,}" for name in (*SPLITS, PRODUCTION) if name in splits]
    became += [f"dropped {count:,} ({reason})" for reason, count in reasons.items()]
    return f"of the photos that were added last: {', '.join(became)}"


def _check_classes(labels: set[str], kept: pd.DataFrame) -> None:
    missing = sorted(labels - set(kept["label"] if len(kept) else []))
    if missing:
        raise PipelineError(
            f"The class {missing[0]!r} has no usable photo: each of its files is empty, broken, too large, "
            "not an image, or also filed under another class. Add photos, or remove the class folder."
        )
    if len(labels) < 2:
        raise PipelineError(
            f"There is only one class ({', '.join(labels)}); a classifier needs at least two. "
            "Add a folder of another class."
        )


def _check_splits(kept: pd.DataFrame) -> None:
    table = pd.crosstab(kept["label"], kept["split"]).reindex(columns=SPLITS, fill_value=0)
    for label, row in table.iterrows():
        short = [split for split in SPLITS if row[split] == 0]
        if short:
            raise PipelineError(
                f"The class {label!r} has {row.sum()} usable photos, too few for a {short[0]} split. "
                "Add photos: a class needs about ten at least, and hundreds are useful."
            )


def _summarise(kept: pd.DataFrame, dropped: pd.DataFrame) -> dict[str, object]:
    labels = sorted(kept["label"].unique())
    splits = [*SPLITS, PRODUCTION] if (kept["split"] == PRODUCTION).any() else list(SPLITS)
    table = pd.crosstab(kept["split"], kept["label"]).reindex(index=splits, columns=labels, fill_value=0)
    sizes = kept["group"].value_counts()
    return {
        "files": len(kept) + len(dropped),
        "kept": len(kept),
        "dropped": len(dropped),
        "dropped_by_reason": {
            str(k): int(v) for k, v in dropped["reason"].value_counts().sort_index().items()
        },
        "photos": {split: {label: int(table.loc[split, label]) for label in labels} for split in splits},
        "near_duplicate_groups": int((sizes > 1).sum()),
        "photos_in_near_duplicate_groups": int(sizes[sizes > 1].sum()),
        "labels": labels,
    }
