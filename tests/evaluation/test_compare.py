"""A worse model does not replace a better one, and chance does not count as worse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.artefact import comparison, properties
from evaluation.figures import intervals
from tests import redness, tiny
from tests.pictures import encode

GATES = (
    "promotion: {points_lost_max: 5, significantly_worse_max: 0, slices_worse_max: 0, "
    "slice_points_lost_max: 10, log_loss_times_max: 1.25, bytes_times_max: 1.5}"
)
PHOTOS = 100


def write(path: Path, turned: float, labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write an artefact of `Redness`."""
    return redness.write(path, tiny.card(labels), turned)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red cats and blue dogs, from dark to bright."""
    folder = tmp_path_factory.mktemp("labelled")
    for label, channel in (("cat", 0), ("dog", 2)):
        (folder / label).mkdir()
        for number in range(PHOTOS):
            pixels = np.full((64, 64, 3), 20 + 3 * number // 2, np.uint8)
            pixels[..., channel] += 40
            (folder / label / f"{number:03}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    return folder


def run(tmp_path: Path, labelled: Path, turned: float, **options: str) -> tuple[int, dict[str, object]]:
    """Compare a candidate with a champion that is always right."""
    (tmp_path / "gates.yaml").write_text(GATES)
    candidate = write(tmp_path / "candidate.pt", turned)
    champion = write(tmp_path / "champion.pt", 0, tuple(options.get("labels", "cat dog").split()))
    arguments = ["--candidate", str(candidate), "--champion", str(champion), "--out", str(tmp_path / "out")]
    photos = options.get("photos", str(labelled))
    if photos == "folder of birds":
        photos = str(tmp_path / "photos")
        shutil.copytree(labelled / "cat", tmp_path / "photos/bird")
    status = main(["compare", *arguments, "--labelled", photos, "--gates", str(tmp_path / "gates.yaml")])
    stored = tmp_path / "out/compare.json"
    return status, json.loads(stored.read_text())["splits"]["labelled"] if stored.exists() else {}


def compare_splits(labelled: Path, dark: dict[str, int], *options: str) -> tuple[int, dict[str, object]]:
    """Compare a candidate that takes dark cats for dogs, and dark dogs for cats, in the working directory.

    Args:
        labelled: The photos.
        dark: Dark photos of each class in production, where they show what the candidate says; on test it is
            the champion who is right.
        options: Which splits, and others.
    """
    rows = []
    for label, other in (("cat", "dog"), ("dog", "cat")):
        rows += [(f"{label}/{number:03}.png", label, "test") for number in range(PHOTOS)]
        rows += [(f"{label}/{number:03}.png", other, "production") for number in range(dark[label])]
    table = pd.DataFrame(rows, columns=["path", "label", "split"]).assign(
        sha256=[*map(str, range(len(rows)))]
    )
    table.to_csv("manifest.csv", index=False)
    Path("gates.yaml").write_text(GATES)
    where = ["--manifest", "manifest.csv", "--raw", str(labelled), "--gates", "gates.yaml", "--out", "out"]
    models = ["--candidate", "candidate.pt", "--champion", "champion.pt"]
    status = main(["compare", *models, *where, *options])
    stored = Path("out/compare.json")
    return status, json.loads(stored.read_text()) if stored.exists() else {}


def test_an_equally_good_model_may_be_promoted(labelled: Path, tmp_path: Path):
    """The same predictions: no difference, with an interval around it."""
    status, figures = run(tmp_path, labelled, 0)
    assert status == 0
    assert (figures["mcnemar_p"], figures["accuracy_difference"]["value"]) == (1.0, 0.0)
    assert figures["accuracy_difference"]["low"] < 0 < figures["accuracy_difference"]["high"]
    assert "may be promoted" in (tmp_path / "out/summary.md").read_text()
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_model_that_fails_on_dark_photos_is_refused_with_reasons(labelled: Path, tmp_path: Path):
    """Wrong on the darkest pictures: it fails test, bound and slices, and the lost photos are shown."""
    status, figures = run(tmp_path, labelled, 80)
    assert status == 1
    assert figures["gates"] == {
        "points_lost_max": False,
        "significantly_worse_max": False,
        "slices_worse_max": False,
        "slice_points_lost_max": False,
        "log_loss_times_max": False,
        "bytes_times_max": True,
    }
    assert figures["only_champion_right"] == len(figures["lost"]) > 20
    worse = [(row["property"], row["slice"]) for row in figures["slices"] if row["worse"]]
    assert ("brightness", "under 0.3") in worse
    text = (tmp_path / "out/summary.md").read_text()
    assert "REFUSED" in text
    assert "Worse on brightness under 0.3" in text
    assert (tmp_path / "out/labelled/lost.png").stat().st_size > 1000
    assert f"`labelled/lost.png` shows 20 of the {len(figures['lost'])} photos that only the champion" in text
    assert run(tmp_path, labelled, 0)[0] == 0
    assert not (tmp_path / "out/labelled/lost.png").exists(), "of an earlier comparison"


def test_a_model_that_has_forgotten_the_old_photos_is_refused(
    labelled: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
):
    """Better in production, worse on test: refused, with split, gate and by how much; both are counted."""
    write(workplace / "candidate.pt", 60)
    redness.write(workplace / "champion.pt", msgspec.structs.replace(tiny.card(), version="2"))
    both = ("--split", "production", "--split", "test")
    status, found = compare_splits(labelled, {"cat": 30, "dog": 30}, *both)
    assert (status, found["outcome"]) == (1, "FAIL")
    test, production = found["splits"]["test"], found["splits"]["production"]
    assert list(found["splits"]) == ["test", "production"]
    assert (test["outcome"], production["outcome"]) == ("FAIL", "PASS")
    assert "bytes_times_max" in test["gates"]
    assert production["gates"] == dict.fromkeys(
        (
            *("points_lost_max", "significantly_worse_max", "slices_worse_max"),
            *("slice_points_lost_max", "log_loss_times_max"),
        ),
        True,
    ), "what does not depend on the photos is judged once"
    gained = production["gained"]
    assert len(gained) == production["only_candidate_right"] > 30
    assert (gained[0]["label"], gained[0]["answer"]) == ("dog", "cat"), (
        "the champion's answer, which is wrong"
    )
    text = Path("out/summary.md").read_text()
    assert text.startswith(
        "### 1 against 2: REFUSED\n\n- test, 200 photos: REFUSED: `points_lost_max` (points_lost "
    )
    assert "> 5), `significantly_worse_max` (" in text
    assert "- production, 60 photos: may be promoted.\n" in text
    assert f"`production/gained.png` shows 20 of the {len(gained)} photos that only the candidate" in text
    assert {str(path) for path in Path("out").rglob("*.png")} == {
        "out/test/lost.png",
        "out/production/gained.png",
    }
    looks = pd.read_csv("data/test-ledger.csv")
    assert list(looks["purpose"]) == ["compare"] * 2 + ["compare production"] * 2
    assert looks["split"].nunique() == 2
    assert "Models looked at on these photos of production: 2" in capsys.readouterr().out


def test_a_few_photos_of_production_suffice_for_a_better_model_only(labelled: Path, workplace: Path):
    """Twenty photos show a large gain; the same answers need more, and the summary says how many."""
    write(workplace / "candidate.pt", 60)
    write(workplace / "champion.pt", 0)
    few = {"cat": 10, "dog": 10}
    assert compare_splits(labelled, few, "--split", "production")[0] == 0
    write(workplace / "champion.pt", 60)
    status, found = compare_splits(labelled, few, "--split", "test", "--split", "production")
    assert (status, found["outcome"]) == (3, "TOO_FEW")
    assert [one["outcome"] for one in found["splits"].values()] == ["PASS", "TOO_FEW"]
    needed = found["splits"]["production"]["photos_to_tell"]
    same = np.ones(needed, bool)
    assert (
        intervals.paired_difference(same, same).low
        >= -0.05
        > intervals.paired_difference(same[1:], same[1:]).low
    )
    assert found["splits"]["test"]["photos_to_tell"] is None
    text = f"about {needed} photos show how far accuracy can fall: {needed - 20} more."
    assert text in Path("out/summary.md").read_text()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("split", [["--split", "production"], ["--split", "test", "--split", "production"]])
def test_without_photos_of_production_the_next_step_is_named(
    split: list[str], labelled: Path, capsys: pytest.CaptureFixture[str]
):
    """Nothing is compared, and nothing counted."""
    assert compare_splits(labelled, {"cat": 0, "dog": 0}, *split) == (2, {})
    assert "make data ADD=" in capsys.readouterr().err
    assert not Path("data/test-ledger.csv").exists()


@pytest.mark.parametrize(
    ("gained", "lost", "n", "limit"),
    [(0, 0, 100, -0.005), (3, 1, 300, -0.005), (0, 6, 300, -0.005), (2, 9, 400, -0.05)],
)
def test_as_many_photos_as_it_takes_to_tell_are_named(gained: int, lost: int, n: int, limit: float):
    """With counts in that proportion the interval is on one side of the limit, with 1 % less it is not."""
    needed = intervals.photos_to_tell(gained, lost, n, limit)
    assert needed is not None

    def tells(photos: int) -> bool:
        found = intervals._paired(gained * photos / n, lost * photos / n, photos)
        return found.low >= limit or found.high < limit

    assert tells(needed)
    assert needed == n or not tells(int(0.99 * needed))


def test_a_difference_at_the_limit_is_never_told():
    """No number rather than one in the millions."""
    assert intervals.photos_to_tell(0, 2, 400, -0.005) is None


def test_a_few_photos_do_not_tell_whether_a_model_is_as_good(labelled: Path, tmp_path: Path):
    """The same predictions on twenty photos: not refused, but too few to rule a loss out, exit 3."""
    for label in ("cat", "dog"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for photo in sorted((labelled / label).iterdir())[:10]:
            shutil.copy(photo, tmp_path / "few" / label)
    status, figures = run(tmp_path, labelled, 0, photos=str(tmp_path / "few"))
    assert status == 3
    assert figures["gates"]["points_lost_max"] is None
    assert figures["gates"]["log_loss_times_max"] is True
    assert figures["detectable_points"] > 10
    assert "TOO FEW PHOTOS to tell" in (tmp_path / "out/summary.md").read_text()


def test_a_loss_on_one_kind_of_photo_is_noticed():
    """Nine of 52 photos of a kind lost among 2,000: worse there, though hardly on the whole."""
    rows = 2000
    kinds = pd.DataFrame({name: np.full(rows, np.nan) for name in properties.EDGES})
    kinds["brightness"] = np.where(np.arange(rows) < 52, 0.2, np.where(np.arange(rows) % 2, 0.35, 0.55))
    right = np.ones((rows, 2), bool)
    right[:9, 0] = False
    found = {one.slice: one for one in comparison.compared_slices(kinds, right)}
    assert [name for name, one in found.items() if one.worse] == ["under 0.3"]
    assert found["under 0.3"].points_lost.value == pytest.approx(100 * 9 / 52)
    assert found["0.3 to 0.4"].points_lost.high < 1


def test_a_slice_of_nearly_all_photos_is_left_out():
    """It says what the whole says, and would cost the others some of the level."""
    kinds = pd.DataFrame({name: np.full(2000, np.nan) for name in properties.EDGES})
    kinds["brightness"] = np.where(np.arange(2000) < 60, 0.2, 0.45)
    assert [one.slice for one in comparison.compared_slices(kinds, np.ones((2000, 2), bool))] == ["under 0.3"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": "bird fish"}, "cannot be compared"),
        ({"photos": "nowhere"}, "There is no folder"),
        ({"photos": "folder of birds"}, "A photo is labelled 'bird'"),
    ],
)
def test_what_cannot_be_compared_is_an_error_with_its_cause(
    options: dict[str, str],
    words: str,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """Exit 2 with the cause and the next step."""
    assert run(tmp_path, labelled, 0, **options) == (2, {})
    assert words in capsys.readouterr().err


def test_mcnemar_counts_only_where_the_models_differ():
    """Six against none is 2 / 2**6; equal counts are no evidence; no difference at all is 1."""
    first = np.array([True] * 6 + [True] * 100)
    second = np.array([False] * 6 + [True] * 100)
    assert intervals.mcnemar(first, second) == pytest.approx(2 / 2**6)
    assert intervals.mcnemar(first, first) == 1.0
    assert intervals.paired_difference(first, second).value == pytest.approx(6 / 106)


def test_holm_rejects_step_by_step():
    """0.01, 0.04 and 0.03 at 5 %: the smallest against a third of the level, then half of it (Holm 1979)."""
    assert intervals.holm([0.01, 0.04, 0.03], 0.05) == [True, False, False]
    assert intervals.holm([0.01, 0.02, 0.024], 0.05) == [True, True, True]
    assert intervals.holm([], 0.05) == []


def test_the_paired_interval_is_tangos():
    """The score test rejects just the differences outside; swapping the models mirrors it (Tango 1998)."""
    first, second = np.ones(50, bool), np.ones(50, bool)
    second[:12], first[12:14] = False, False
    found, mirrored = intervals.paired_difference(first, second), intervals.paired_difference(second, first)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0611, 0.3447), abs=5e-4)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((found.low, found.high))
    same = intervals.paired_difference(first, first)
    assert same.high == pytest.approx(intervals.Z_95**2 / (50 + intervals.Z_95**2), abs=1e-4)
    lost = intervals.paired_difference(~np.ones(500, bool), np.ones(500, bool))
    assert (lost.value, lost.low) == (-1, -1)
    assert lost.high < -0.98


@pytest.mark.parametrize(("n", "least"), [(500, 930), (200, 930)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(n: int, least: int):
    """1,000 draws with 3 % and 1 % discordant, and with few: 95 % of the intervals hold the truth."""
    random = np.random.default_rng(0)
    for gained, lost in ((0.03, 0.01), (0.004, 0.0005)):
        covered = 0
        for _ in range(1000):
            kind = random.choice(3, n, p=(1 - gained - lost, gained, lost))
            found = intervals.paired_difference(kind != 2, kind != 1)
            covered += found.low <= gained - lost <= found.high
        assert covered >= least


def test_every_table_of_a_few_photos_has_a_paired_interval():
    """Also where a model is always right, or never: the value lies inside, and both ends within -1 and 1."""
    for n in (1, 2, 12, 52):
        for gained in range(n + 1):
            for lost in range(n + 1 - gained):
                first, second = np.ones(n, bool), np.ones(n, bool)
                second[:gained], first[gained : gained + lost] = False, False
                found = intervals.paired_difference(first, second)
                assert -1 <= found.low <= found.value + 1e-9
                assert found.value - 1e-9 <= found.high <= 1
