"""`ratlip compare`: rows of runs and sweeps, from ledgers and the values of images beside them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ratlip
from made_sweep import DIMENSIONS, IMAGES, REAL, make_run
from safetensors.numpy import load_file, save_file

from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.experiments import compare, score
from ratlip_cli.experiments.compare import CompareRequest, Table, compare_runs
from ratlip_cli.experiments.ledger import (
    BROKEN,
    BROKEN_FILE,
    CHANGED,
    DONE,
    LEDGER_FILE,
    REAL_FEATURES_FILE,
    SCENES,
    VALUES_FILE,
    Entry,
    digest_of,
    read_entry,
    read_ledger,
    write_entry,
    write_ledger,
)
from ratlip_cli.experiments.protocol import unlike
from ratlip_cli.experiments.tables import FORMATS
from ratlip_cli.training.settings import TrainSettings

SEEDS = 4
SHIFTS = {"galip": 0.0, "rat": 0.01, "ratlip": 2.0}
"""Row -> by how much its images score more than those of the first."""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep folder of three rows and four seeds; the second row is the first but for noise, the third is better."""
    folder = tmp_path / "table3"
    entries = [make_run(folder, row, row, seed, shift) for row, shift in SHIFTS.items() for seed in range(SEEDS)]
    save_file({"features": REAL}, folder / REAL_FEATURES_FILE)
    write_ledger(folder, entries)
    return folder


def compared(*folders: Path, **more: object) -> Table:
    return compare_runs(CompareRequest(folders, **more))  # type: ignore[arg-type]


def test_a_sweep_has_its_rows_and_says_which_are_better(sweep: Path) -> None:
    table = compared(sweep)
    assert [row.name for row in table.rows] == list(SHIFTS)
    assert table.metrics == ["clip-score", "fid"]
    for metric in table.metrics:
        assert table.cells["galip", metric].comparison is None
        verdicts = [table.cells[row, metric].comparison for row in ("rat", "ratlip")]
        assert [one.verdict for one in verdicts if one] == [f"not decided by {SEEDS} seeds", "better"]
        own = table.cells["ratlip", metric].estimate
        scores = [run.entry.scores[metric] for run in table.rows[2].runs]
        assert (own.mean, own.sd) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
        assert own.images == IMAGES
    assert table.notes == []
    from_rat = compared(sweep, baseline="rat", metrics=["fid"])
    assert [row.name for row in from_rat.rows] == ["rat", "galip", "ratlip"]
    assert from_rat.metrics == ["fid"]


def test_rows_of_sweeps_of_one_name_stay_apart(sweep: Path, tmp_path: Path) -> None:
    other = tmp_path / "published" / sweep.name
    shutil.copytree(sweep, other)
    write_ledger(other, [replace(one, scores={"clip-score": 1.0}, files={}) for one in read_ledger(other)][:SEEDS])
    table = compared(sweep, other, include_changed=True)
    assert [row.name for row in table.rows] == [f"{sweep}/galip", "rat", "ratlip", f"{other}/galip"]
    assert table.cells[f"{other}/galip", "clip-score"].estimate.mean == 1
    assert table.cells[f"{sweep}/galip", "clip-score"].estimate.mean > 40
    renamed = other.with_name("again")
    other.rename(renamed)
    names = [row.name for row in compared(sweep, renamed, include_changed=True).rows]
    assert names == ["table3/galip", "rat", "ratlip", "again/galip"]


def test_the_ledger_alone_is_enough_for_intervals_over_seeds(sweep: Path, tmp_path: Path) -> None:
    alone = tmp_path / "published"
    alone.mkdir()
    (alone / "ledger.jsonl").write_bytes((sweep / "ledger.jsonl").read_bytes())
    table, whole = compared(alone), compared(sweep)
    for key, cell in table.cells.items():
        assert cell.estimate.mean == whole.cells[key].estimate.mean
        assert cell.estimate.images == 0
        assert cell.estimate.low is not None
        assert whole.cells[key].estimate.low is not None
        assert cell.estimate.low > whole.cells[key].estimate.low - 1e-9  # images are a part of it too
    assert any("over seeds alone" in note for note in table.notes)


def test_broken_and_changed_runs_are_named_and_left_out(sweep: Path) -> None:
    entries = [json.loads(line) for line in (sweep / "ledger.jsonl").read_text().splitlines()]
    broken = replace(Entry(**entries[5]), state=BROKEN, reason="the loss is not finite", scores={})
    write_ledger(sweep, [*(Entry(**one) for one in entries[:5]), broken, *(Entry(**one) for one in entries[6:])])
    (sweep / entries[9]["run"] / "model" / "generator.safetensors").write_bytes(b"others")
    table = compared(sweep)
    assert [len(row.runs) for row in table.rows] == [4, 3, 3]
    assert any(entries[5]["run"] in note and "not finite" in note for note in table.notes)
    assert any(entries[9]["run"] in note and "changed by hand" in note for note in table.notes)
    assert any("different seeds" in note for note in table.notes)
    difference = table.cells["ratlip", "clip-score"].comparison
    assert difference is not None
    assert difference.difference.seeds == 3
    included = compared(sweep, include_changed=True)
    assert len(included.rows[2].runs) == 4
    assert any(f"{entries[9]['run']} counts, although it was changed by hand" in note for note in included.notes)


def test_runs_that_are_not_trained_to_their_end_are_named(sweep: Path) -> None:
    first, *others = read_ledger(sweep)
    write_ledger(sweep, [replace(first, steps=40), *others])
    assert compared(sweep).notes == [f"{first.run} is not trained to its end: 40 of 100 steps"]
    run = sweep / first.run
    settings = TrainSettings.of(dataset="demo-birds", variant="galip", epochs=3, batch_size=16)
    (run / "config.toml").write_text(settings.to_toml(), encoding="utf-8")
    (run / "model" / "config.json").write_text(json.dumps({"training": {"data": {"images": 100}}}), encoding="utf-8")
    counted = replace(first, settings=settings.flat(), settings_digest=digest_of(settings.flat()))
    for shown, notes in ((256, [f"{first.run} is not trained to its end: 2.6 of 3 epochs"]), (304, [])):
        write_entry(run, replace(counted, images_shown=shown))
        assert compared(run).notes == notes


@pytest.mark.parametrize("file", ["ledger.jsonl", "rat-seed0/scores.json"])
def test_a_score_that_its_images_do_not_have_counts_as_changed(sweep: Path, file: str) -> None:
    score = json.dumps(read_ledger(sweep)[SEEDS].scores["clip-score"])
    text = (sweep / file).read_text(encoding="utf-8")
    assert score in text
    (sweep / file).write_text(text.replace(score, "90.5"), encoding="utf-8")
    entry = read_ledger(sweep)[SEEDS] if file == "ledger.jsonl" else read_entry(sweep / "rat-seed0")
    assert entry is not None
    assert (entry.run, entry.state) == ("rat-seed0", CHANGED)
    assert str(entry.reason).startswith("its clip-score is 90.5, but ")


def test_a_distance_that_the_features_do_not_have_is_told(sweep: Path) -> None:
    first, *others = read_ledger(sweep)
    write_ledger(sweep, [replace(first, scores={**first.scores, "fid": 1.5}), *others])
    with pytest.raises(DataError, match=r"row 'galip': fid is 1\.5, .* in its entries, but 1[0-9]\."):
        compared(sweep, metrics=["fid"])


def test_published_scores_are_those_of_their_images() -> None:
    for folder in sorted((Path(__file__).parents[1] / "examples" / "experiments").iterdir()):
        assert {(entry.run, entry.reason) for entry in read_ledger(folder) if entry.state != DONE} == set()


def test_damaged_features_of_real_images_are_told_with_what_mends_them(sweep: Path) -> None:
    (sweep / REAL_FEATURES_FILE).write_bytes(b"")
    answer = ratlip("compare", sweep, "--metric", "fid")
    assert answer.code == 1
    assert f"{sweep / REAL_FEATURES_FILE} cannot be read" in answer.err
    assert "`ratlip sweep` writes it anew" in answer.err
    for run in sweep.glob("*-seed*"):
        (run / "config.toml").unlink()
    assert "restore it from where it came" in ratlip("compare", sweep, "--metric", "fid").err


def test_a_printed_distance_of_other_features_is_noted(sweep: Path) -> None:
    (sweep / "sweep.toml").write_text(f"{SWEEP}\nprinted.rat.fid = 13.28\n", encoding="utf-8")
    said = "fid_clip: what is printed as fid is of Inception's features"
    for network, noted in (("Inception 2015-12-05", 0), ("CLIP ratlip-demo", 1)):
        scored_by(sweep, networks={network: SOME})
        assert sum(note.startswith(said) for note in compared(sweep).notes) == noted


def test_a_run_that_was_changed_before_it_was_scored_has_nothing_to_count(sweep: Path) -> None:
    entries = read_ledger(sweep)
    never = replace(entries[0], state=CHANGED, reason="its settings were changed", scores={}, protocol={}, files={})
    write_ledger(sweep, [never, *entries[1:]])
    for included in (False, True):
        table = compared(sweep, include_changed=included)
        assert [len(row.runs) for row in table.rows] == [SEEDS - 1, SEEDS, SEEDS]
        assert any(never.run in note for note in table.notes)


SWEEP = """
images_shown = 1600
seeds = 4
settings.dataset = "demo-birds"
rows.galip.variant = "galip"
rows.rat.variant = "rat"
rows.ratlip.variant = "ratlip"
rows.late.variant = "ratlip-released"
"""


def test_rows_of_a_sweep_that_is_not_done_are_named(sweep: Path) -> None:
    (sweep / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    entries = read_ledger(sweep)
    broken = replace(entries[4], state=BROKEN, reason="the loss is not finite", scores={})
    write_ledger(sweep, [*entries[:4], broken, *entries[5:-3]])  # a broken run is named as such
    how = f"go on with `ratlip sweep {sweep / 'sweep.toml'} --out {sweep}`"
    told = [note for note in compared(sweep).notes if "go on with" in note]
    assert told == [f"ratlip: 1 of 4 seeds is done; {how}", f"late: 0 of 4 seeds are done; {how}"]


SOME = {"fingerprint": "0" * 16, "resize": "none"}


def scored_by(sweep: Path, **protocol: object) -> None:
    entries = read_ledger(sweep)
    write_ledger(sweep, [replace(one, protocol={**one.protocol, **protocol}, files={}) for one in entries])


@pytest.mark.slow
def test_a_distance_is_named_after_whose_features_it_compares_and_how_many_images(sweep: Path) -> None:
    """The keys of the ledger stay what they were."""
    assert "\nfid (lower is better)\n" in ratlip("compare", sweep).out  # nothing says by whom
    for network, name in (("CLIP ratlip-demo", "fid_clip"), ("Inception 2015-12-05", "fid")):
        scored_by(sweep, networks={network: SOME, "CLIP of another": SOME}, images=1040, real_images=1040)
        shown = ratlip("compare", sweep).out
        assert f"\n{name} of 1,040 images (lower is better)\n" in shown
        assert "clip-score of 1,040 images (higher is better)\n" in shown
        assert compared(sweep, metrics=[name]).metrics == compared(sweep, metrics=["fid"]).metrics == ["fid"]
        content = json.loads(ratlip("compare", sweep, "--metric", "fid", "--format", "json").out)
        assert {(one["metric"], one["shown_as"], one["images_scored"]) for one in content["cells"]} == {
            ("fid", name, 1040)
        }


def test_a_distance_of_too_few_images_says_so(sweep: Path) -> None:
    scored_by(sweep, networks={"CLIP ratlip-demo": SOME}, real_images=DIMENSIONS)
    said = f"fid_clip: {DIMENSIONS} images, fewer than the {DIMENSIONS + 1} that a covariance of {DIMENSIONS} features"
    assert any(note.startswith(said) for note in compared(sweep).notes)


def test_the_same_runs_under_two_names_are_not_decided(sweep: Path) -> None:
    entries = read_ledger(sweep)[:SEEDS]
    write_ledger(sweep, [*entries, *(replace(entry, row="again") for entry in entries)])
    table = compared(sweep)
    for metric in table.metrics:
        comparison = table.cells["again", metric].comparison
        assert comparison is not None
        assert (comparison.verdict, comparison.p) == (f"not decided by {SEEDS} seeds", 1)


def test_entries_of_earlier_versions_are_read_and_their_images_are_independent(sweep: Path) -> None:
    """They say neither who scored them nor which scenes their images are of."""
    before = compared(sweep)
    lines = []
    for entry in read_ledger(sweep):
        earlier = {name: value for name, value in vars(entry).items() if name != "scored_by"}
        lines.append(json.dumps(earlier) + "\n")
        (sweep / entry.run / "scores.json").write_text(lines[-1], encoding="utf-8")
        assert read_entry(sweep / entry.run) == entry
        assert SCENES not in load_file(sweep / entry.run / VALUES_FILE)
    (sweep / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
    assert compared(sweep).cells == before.cells
    assert {cell.estimate.images for cell in before.cells.values()} == {IMAGES}


def test_images_of_one_scene_are_resampled_together(sweep: Path) -> None:
    """Where captions are several and nothing says whose, the seeds alone count."""
    entries = [replace(entry, files={}) for entry in read_ledger(sweep)]
    several = [replace(entry, protocol={**entry.protocol, "captions_per_image": 4}) for entry in entries]
    write_ledger(sweep, several)
    assert {cell.estimate.images for cell in compared(sweep).cells.values()} == {0}
    for entry in entries:
        values = load_file(sweep / entry.run / VALUES_FILE)
        save_file({**values, SCENES: np.repeat(np.arange(IMAGES // 4), 4)}, sweep / entry.run / VALUES_FILE)
    cells = compared(sweep).cells
    assert cells["galip", "clip-score"].estimate.images == IMAGES // 4
    assert cells["galip", "fid"].estimate.images == IMAGES  # of real images, some of which nothing was generated for


def test_versions_that_differ_are_those_that_trained(sweep: Path) -> None:
    entries = read_ledger(sweep)
    write_ledger(sweep, [replace(entry, scored_by={"commit": str(k)}) for k, entry in enumerate(entries)])
    assert compared(sweep).notes == []
    write_ledger(sweep, [replace(entry, commit=str(k % 2)) for k, entry in enumerate(entries)])
    assert compared(sweep).notes == ["the runs were trained by 2 commits of ratlip"]


def test_plain_runs_that_differ_in_the_seed_alone_are_one_row(sweep: Path) -> None:
    runs = [sweep / f"{row}-seed{seed}" for row in ("ratlip", "galip") for seed in range(SEEDS)]
    table = compared(*runs)
    assert [(row.name, len(row.runs)) for row in table.rows] == [("ratlip", SEEDS), ("galip", SEEDS)]
    whole = compared(sweep, baseline="ratlip")
    for metric in table.metrics:
        own, same = table.cells["galip", metric], whole.cells["galip", metric]
        assert own.estimate == same.estimate
        assert own.comparison is not None
        assert same.comparison is not None
        assert own.comparison.difference == same.comparison.difference  # p is over one comparison less
    with pytest.raises(UsageError, match="same seed"):
        compared(runs[0], runs[0])


def test_runs_that_were_scored_in_different_ways_are_not_compared(sweep: Path) -> None:
    run = sweep / "rat-seed0"
    entry = json.loads((run / "scores.json").read_text())
    entry["protocol"]["limit"] = 50
    (run / "scores.json").write_text(json.dumps(entry))
    with pytest.raises(DataError, match=r"different ways \(limit\), .* sweep both with the same `\[evaluation\]`"):
        compared(sweep / "galip-seed0", run)
    (sweep / LEDGER_FILE).unlink()
    with pytest.raises(DataError, match=r"different ways \(limit\), .* remove scores\.json from one"):
        compared(sweep / "galip-seed0", run)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("CLIPs", {"clip": {"fingerprint": "b"}, "protocol": {"networks": {"CLIP b": {"fingerprint": "b"}}}}),
        ("image sizes", {"protocol": {"image_size": 64}}),
        ("datasets", {"data": {"name": "cub"}, "protocol": {"data_fingerprint": "b"}}),
    ],
)
def test_trainings_that_no_way_of_scoring_makes_alike_are_told(sweep: Path, what: str, changes: dict[str, Any]) -> None:
    (sweep / LEDGER_FILE).unlink()
    runs = sweep / "galip-seed0", sweep / "rat-seed0"
    entry = read_entry(runs[1])
    assert entry is not None
    write_entry(runs[1], replace(entry, **{**changes, "protocol": {**entry.protocol, **changes["protocol"]}}))
    with pytest.raises(DataError, match=f": {what} are those that each was trained with, so scoring them again is no"):
        compared(*runs)


@pytest.mark.parametrize("own_row", [True, False])
def test_a_run_folder_may_be_renamed(sweep: Path, own_row: bool) -> None:
    """Its values are those in the folder that is given, whatever lies under its name of before."""
    (sweep / LEDGER_FILE).unlink()
    runs = [sweep / f"{row}-seed{seed}" for row in ("galip", "ratlip") for seed in range(2)]
    if own_row:
        for run in runs:
            entry = read_entry(run)
            assert entry is not None
            write_entry(run, replace(entry, row=run.name))
    before = compared(*runs)
    for one, other in ((runs[0], runs[2]), (runs[1], runs[3])):
        one.rename(sweep / "else")
        other.rename(one)
        (sweep / "else").rename(other)
    after = compared(*runs[2:], *runs[:2])
    assert after.notes == before.notes == []
    assert list(after.cells.values()) == list(before.cells.values())
    assert [row.name for row in after.rows] == (["ratlip-seed0", "galip-seed0"] if own_row else ["galip", "ratlip"])


def test_clips_that_have_changed_their_tasks_score_in_another_way() -> None:
    ours, theirs = ({"fingerprint": each * 16, "resize": "none"} for each in "ab")
    one = {"clip": "ours", "clip_score_clip": "theirs", "networks": {"CLIP ours": ours, "CLIP theirs": theirs}}
    elsewhere = {"clip": "x/ours", "clip_score_clip": "y", "networks": {"CLIP x/ours": ours, "CLIP y": theirs}}
    swapped = {"clip": "theirs", "clip_score_clip": "ours", "networks": {"CLIP theirs": theirs, "CLIP ours": ours}}
    assert unlike(one, elsewhere) == []
    assert unlike(one, swapped) == ["CLIP ours", "CLIP theirs"]
    assert unlike(one, {**one, "networks": {"CLIP ours": ours}}) == ["CLIP theirs"]


def test_a_plain_run_that_is_trained_on_is_scored_again(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was changed otherwise is left out, with what scores it again."""
    (sweep / LEDGER_FILE).unlink()
    run = sweep / "rat-seed0"
    entry = read_entry(run)
    assert entry is not None
    write_entry(run, replace(entry, steps=40))
    (run / "model" / "generator.safetensors").write_bytes(b"trained on")
    again = replace(entry, files={}, scores={"clip-score": 3.0})
    monkeypatch.setattr(score, "score_run", lambda *_, **__: again)
    assert compared(sweep / "galip-seed0", run).cells["rat", "clip-score"].estimate.mean == 3
    in_epochs = replace(entry, settings={**entry.settings, "steps": None, "epochs": 3})
    write_entry(run, in_epochs)
    save_file({"weight": np.zeros(1)}, run / "model" / "generator.safetensors", {"step": "101"})
    assert compared(sweep / "galip-seed0", run).cells["rat", "clip-score"].estimate.mean == 3
    save_file({"weight": np.zeros(1)}, run / "model" / "generator.safetensors", {"step": "100"})
    write_entry(run, entry)
    (note, *_) = compared(sweep / "galip-seed0", run).notes
    assert note.startswith("rat-seed0 was changed by hand: model/generator.safetensors was changed")
    assert note.endswith(f"; to score it again, remove {run / 'scores.json'}")


def test_features_of_real_images_are_those_that_a_run_was_compared_with(sweep: Path) -> None:
    """A run of a sweep that is scored by itself has its own; without any of as many images the seeds count alone."""
    runs = [sweep / f"{row}-seed{seed}" for row in ("galip", "rat") for seed in range(2)]
    for run in runs:
        entry = read_entry(run)
        assert entry is not None
        write_entry(run, replace(entry, protocol={**entry.protocol, "real_images": IMAGES}))
    save_file({"features": REAL[:7]}, sweep / REAL_FEATURES_FILE)
    table = compared(*runs, metrics=["fid"])
    assert table.cells["galip", "fid"].estimate.images == 0
    assert table.notes == ["fid: intervals are over seeds alone, because the features of its real images are not there"]
    for run in runs:
        save_file({"features": REAL}, run / REAL_FEATURES_FILE)
    table = compared(*runs, metrics=["fid"])
    assert (table.cells["galip", "fid"].estimate.images, table.notes) == (IMAGES, [])


def test_why_seeds_count_alone_is_said(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = read_ledger(sweep)
    write_ledger(sweep, [replace(one, scores={**one.scores, "kid": one.seed / 10}) for one in entries])
    monkeypatch.setattr(compare, "MOST_DIMENSIONS", DIMENSIONS - 1)
    assert compared(sweep).notes == [
        f"fid: intervals are over seeds alone, because features of {DIMENSIONS} dimensions take too long to resample",
        "kid: intervals are over seeds alone, because no values of images are kept of it",
    ]


def test_what_cannot_be_compared_is_said_in_one_line(sweep: Path, tmp_path: Path) -> None:
    for arguments, says in (
        ([tmp_path], "neither a run folder nor a sweep folder"),
        ([sweep, "--metric", "fdi"], "Did you mean 'fid'?"),
        ([sweep, "--baseline", "ratlp"], "Did you mean 'ratlip'?"),
        ([sweep, "--format", "word"], "unknown format"),
    ):
        answer = ratlip("compare", *arguments)
        assert answer.code in (1, 2)
        assert says in answer.err
        assert len(answer.err.splitlines()) == 1
    write_ledger(sweep, [])
    assert "no run has scores" in ratlip("compare", sweep).err


@pytest.mark.slow
def test_every_format_has_the_same_numbers(sweep: Path) -> None:
    (sweep / "rat-seed1" / BROKEN_FILE).write_text("{}", encoding="utf-8")
    texts = {name: ratlip("compare", sweep, "--format", name).out for name in FORMATS}
    content = json.loads(texts["json"])
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [float(row["mean"]) for row in rows] == [cell["mean"] for cell in content["cells"]]
    assert len(rows) == 6
    without_scores = {"state": BROKEN, "reason": "the loss is not finite", "scores": {}}
    entries = [replace(one, **without_scores) if one.row == "rat" else one for one in read_ledger(sweep)]
    write_ledger(sweep, entries)
    without = list(csv.DictReader(io.StringIO(ratlip("compare", sweep, "--format", "csv").out)))
    assert [(row["seeds"], row["verdict"]) for row in without if row["row"] == "rat"] == [("0", "no scores")] * 2
    low, high = (content["cells"][2][f"difference_{end}"] for end in ("low", "high"))
    assert 0 < low < 2 < high + 0.5
    shown = f"[{low:.2f}, {high:.2f}]"
    for name in ("md", "latex"):
        line = next(line for line in texts[name].splitlines() if "ratlip" in line)
        assert shown in line
        assert "better" in line
    assert len({line.count("|") for line in texts["md"].splitlines() if line.startswith("|")}) == 1
    assert re.search(r"\\begin\{tabular\}\{lr+l\}", texts["latex"])
    assert "95 \\% interval" in texts["latex"]
    assert "$<$ 0.001" in texts["latex"]
    assert not re.search(r"(?<!\$)[<>|](?!\$)", texts["latex"])
