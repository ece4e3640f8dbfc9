"""The paper's tables by name: their sweep files, the claims that are read from them, and the measures of images."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tomli_w
import torch
from command_line import ratlip
from conftest import PREPROCESS, TINY_CLIP
from explain_model import clip_of_grid, model_of
from made_sweep import make_run
from safetensors.numpy import load_file, save_file

from ratlip_cli.cli.reproduce import BEGIN, END, _show_table
from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import METADATA
from ratlip_cli.data.prepare import prepare
from ratlip_cli.data.request import PrepareRequest
from ratlip_cli.demo.attribute_classifier import load_classifier
from ratlip_cli.demo.attributes import sample_attributes
from ratlip_cli.demo.render import render
from ratlip_cli.demo.said import said
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.experiments import measures, reproduce, score
from ratlip_cli.experiments.claims import Claim, claims, markdown, provenance, slope_weights
from ratlip_cli.experiments.ledger import (
    CHANGED,
    DONE,
    GENERATOR_FILE,
    Entry,
    is_published,
    read_entry,
    read_ledger,
    write_entry,
    write_ledger,
)
from ratlip_cli.experiments.measure_files import ANGLES_FILE, GRADCAM_FILE, HOW, SWAP_FILE, is_current, metadata_of
from ratlip_cli.experiments.protocol import Protocol
from ratlip_cli.experiments.reproduce import (
    BASELINE,
    HIDDEN_SIZES,
    OURS,
    PAPERS,
    RAT,
    SCALES,
    SWEEPS,
    Folders,
    ReproduceRequest,
    hidden,
)
from ratlip_cli.experiments.score import score_run
from ratlip_cli.experiments.sweep import SweepFolder, SweepRequest, remove_unbegun
from ratlip_cli.experiments.sweep_file import Sweep, read_sweep
from ratlip_cli.file_kinds import tensor_metadata
from ratlip_cli.pixels import from_image
from ratlip_cli.training.settings import TrainSettings, settings_of_run
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.clip_files import save_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import DISCRIMINATOR_FILE

ROOT = Path(__file__).parents[1]


def paper(name: str, scale: str) -> Sweep:
    return read_sweep(PAPERS / f"{name}.{scale}.toml")


def test_every_table_has_a_sweep_file_of_each_scale_and_no_other_is_there() -> None:
    assert {path.name for path in PAPERS.iterdir()} == {f"{name}.{scale}.toml" for name in SWEEPS for scale in SCALES}


@pytest.mark.parametrize("scale", SCALES)
def test_the_sweep_files_hold_the_papers_rows(scale: str) -> None:
    table1, table2, table3, faces = (paper(name, scale) for name in SWEEPS)
    assert {run.settings.variant for run in table1.runs} == {"ratlip", "galip", "dfgan", "lafite", "attngan", "ratgan"}
    assert table2.rows == ["hide=0", *map(hidden, HIDDEN_SIZES)]
    sizes = {run.row: run.settings.model["hidden_size"] for run in table2.runs if run.settings.variant == "ratlip"}
    assert sizes == {hidden(size): size for size in HIDDEN_SIZES}
    variants = {run.row: run.settings.variant for run in table3.runs}
    assert variants == {BASELINE: "galip", RAT: "rat", OURS: "ratlip"}
    assert {run.row: run.settings.variant for run in faces.runs} == {BASELINE: "galip", OURS: "ratlip"}
    assert len({run.seed for run in table3.runs}) == 5
    for sweep in (table1, table2, table3, faces):
        shown = {run.settings.steps * run.settings.batch_size for run in sweep.runs if run.settings.steps}
        assert max(shown) - min(shown) < 32  # part of a batch
    assert table3.printed[OURS]["clip-score"] == 32.03
    assert table2.printed["hide=4"]["clip-score"] == 30.81


def made(folder: Path, rows: dict[str, float], seeds: int = 5) -> Path:
    """A sweep folder whose rows' CLIP scores differ by so much."""
    write_ledger(
        folder, [make_run(folder, row, "galip", seed, by) for row, by in rows.items() for seed in range(seeds)]
    )
    return folder


def measured(folder: Path, file: str, **values: dict[str, float]) -> None:
    """Leave a measure in the run folders: by name, the mean of each row."""
    random = np.random.default_rng(0)
    for run in folder.glob("*-seed*"):
        row = run.name.rpartition("-seed")[0]
        own = {n: (means[row] + random.normal(0, 0.02, 50)).astype(np.float32) for n, means in values.items()}
        save_measure(run, file, own)


def save_measure(run: Path, file: str, values: dict[str, np.ndarray], **other: str) -> None:
    """A measure of a run as `measure_runs` leaves it; `other` metadata make it one of another model, data or way."""
    entry = read_entry(run)
    assert entry is not None
    save_file(values, run / file, {**metadata_of(file, entry, "judge" if file == SWAP_FILE else ""), **other})


def by_key(folders: Folders) -> dict[str, Claim]:
    return {one.key: one for one in claims(folders)}


def test_what_is_not_run_is_not_measured(tmp_path: Path) -> None:
    found = claims(Folders(*(tmp_path / name for name in ("table2", "table3", "faces"))))
    assert [one.key for one in found] == ["a", "b", "c1", "c2", "d", "e", "f1", "f2", "f3"]
    assert {one.measured for one in found} == {None}
    assert {one.verdict for one in found} == {"not measured yet"}
    by_command = {one.key: one.command for one in found}
    assert by_command["a"] == "ratlip reproduce table3"
    assert by_command["f3"] == "ratlip reproduce fig5"
    assert all(
        f"| not measured yet | `{one.command}` |" in line for one, line in zip(found, lines_of(found), strict=True)
    )
    begun = made(tmp_path / "table3", {BASELINE: 0})
    assert by_key(Folders(tmp_path / "table2", begun, tmp_path / "faces"))["a"].measured is None


def lines_of(found: list[Claim]) -> list[str]:
    return markdown(found).splitlines()[2:]


def test_what_no_run_of_a_scale_can_measure_is_said_and_commands_name_scale_and_folder() -> None:
    found = by_key(ReproduceRequest("claims", "paper", Path("else where")).folders)
    assert {key for key, one in found.items() if not one.command} == {"d", "f1", "f2", "f3"}
    assert found["d"].verdict == "not measured: ratlip has no masks of segments at this scale yet"
    assert "classifier" in found["f2"].verdict
    assert found["e"].command == "ratlip reproduce fig5 --scale paper --out 'else where'"
    assert {one.verdict for one in found.values() if one.command} == {"not measured yet"}
    assert all(line.endswith(" |") and line.count(" | ") == 7 for line in lines_of(list(found.values())))


def test_the_machine_the_seeds_and_the_commit_stand_below_the_claims(tmp_path: Path) -> None:
    folders = Folders(*(tmp_path / name for name in ("table2", "table3", "faces")))
    assert provenance(folders) == "Nothing is trained yet."
    made(folders.table3, {BASELINE: 0, OURS: 0}, 2)
    entries = [replace(one, machine=f"m{one.seed}", commit="c-dirty") for one in read_ledger(folders.table3)]
    write_ledger(folders.table3, entries)
    made(folders.faces, {BASELINE: 0}, 1)
    assert provenance(folders) == (
        "- Seeds: table3 0, 1; faces 0\n"
        "- Trained on: an unknown machine; m0; m1\n"
        "- Commits of ratlip that trained: c-dirty; version unknown, no checkout"
    )


@pytest.mark.slow
def test_claims_that_are_true_hold_and_those_that_are_false_fail(tmp_path: Path) -> None:
    sizes = {hidden(size): 0.2 * k for k, size in enumerate(HIDDEN_SIZES)}
    true = Folders(
        made(tmp_path / "table2", sizes), made(tmp_path / "table3", {BASELINE: 0, RAT: 0.05, OURS: 2}),
        made(tmp_path / "faces", {BASELINE: 0, OURS: 0}),
    )  # fmt: skip
    measured(true.table2, GRADCAM_FILE, energy={**dict.fromkeys(sizes, 0.4), hidden(64): 0.6})
    measured(true.table3, ANGLES_FILE, angle={BASELINE: 40, RAT: 40, OURS: 35})
    measured(true.faces, SWAP_FILE, age={BASELINE: 0.6, OURS: 0.8}, kept={BASELINE: 0.95, OURS: 0.97})
    found = by_key(true)
    assert {one.verdict for one in found.values()} == {"holds"}
    assert found["c1"].measured is not None
    assert found["c1"].measured.mean == pytest.approx(0.2, abs=0.1)
    assert found["d"].measured is not None
    assert found["d"].measured.mean == pytest.approx(0.2, abs=0.02)

    false = Folders(
        made(tmp_path / "falling", {row: 20 - 10 * by for row, by in sizes.items()}),
        made(tmp_path / "opposite", {BASELINE: 2, RAT: -2, OURS: 0}),
        made(tmp_path / "others", {BASELINE: 0, OURS: 0}),
    )
    measured(false.table2, GRADCAM_FILE, energy={**dict.fromkeys(sizes, 0.4), hidden(64): 0.3})
    measured(false.table3, ANGLES_FILE, angle={BASELINE: 35, RAT: 40, OURS: 40})
    measured(false.faces, SWAP_FILE, age={BASELINE: 0.4, OURS: 0.3}, kept={BASELINE: 0.9, OURS: 0.7})
    verdicts = {key: one.verdict for key, one in by_key(false).items()}
    assert {verdict for key, verdict in verdicts.items() if key != "c2"} == {"fails"}


def test_claims_between_equal_rows_are_not_decided(tmp_path: Path) -> None:
    folders = Folders(
        tmp_path / "none", made(tmp_path / "table3", {BASELINE: 0, RAT: 0, OURS: 0}, 3), tmp_path / "none"
    )
    assert by_key(folders)["a"].verdict == "not decided by 3 seeds"
    one_seed = Folders(tmp_path / "none", made(tmp_path / "one", {BASELINE: 0, RAT: 0, OURS: 9}, 1), tmp_path / "none")
    assert by_key(one_seed)["a"].verdict == "not decided by 1 seed"


def test_the_slope_is_that_of_least_squares() -> None:
    scores = dict(zip(map(hidden, HIDDEN_SIZES), (3, 1, 4, 1, 5, 9), strict=True))
    slope = sum(weight * scores[row] for row, weight in slope_weights().items())
    assert slope == pytest.approx(np.polyfit(np.log2(HIDDEN_SIZES), list(scores.values()), 1)[0])


@pytest.mark.parametrize(
    "other", [{"model": "another"}, {"data": "others"}, {"how": "version 0 of 1 pair"}, {"classifier": "another"}]
)
def test_a_measure_of_another_model_data_or_way_is_none(tmp_path: Path, other: dict[str, str]) -> None:
    folder = made(tmp_path / "faces", {BASELINE: 0, OURS: 0}, 3)
    for entry in (entries := read_ledger(folder)):
        protocol = {**entry.protocol, "networks": {"attribute classifier": {"fingerprint": "judge"}}}
        write_entry(folder / entry.run, replace(entry, protocol=protocol))
    write_ledger(folder, [one for entry in entries if (one := read_entry(folder / entry.run)) is not None])
    values = np.linspace(0, 1, 16, dtype=np.float32)
    for run in folder.glob("*-seed*"):
        save_measure(run, SWAP_FILE, {"age": values, "kept": values})
    folders = Folders(tmp_path / "none", tmp_path / "none", folder)
    assert by_key(folders)["f3"].measured is not None
    for run in folder.glob(f"{OURS}-seed*"):
        save_measure(run, SWAP_FILE, {"age": values, "kept": values}, **other)
    found = by_key(folders)
    assert {found[key].verdict for key in ("f1", "f2", "f3")} == {"not measured yet"}
    assert f"faces: {OURS}-seed2 has no {SWAP_FILE} of its model and data as they are" in provenance(folders)


def test_the_published_angles_are_those_of_version_1(tmp_path: Path) -> None:
    """They say nothing but the model, which was all that was written when they were measured."""
    folder = ROOT / "examples" / "experiments" / "table3.demo"
    entries = read_ledger(folder)
    assert len(entries) == 15
    for entry in entries:
        assert set(tensor_metadata(folder / entry.run / ANGLES_FILE)) == {"model"}
        assert is_current(folder / entry.run / ANGLES_FILE, entry)
        assert not is_current(folder / entry.run / ANGLES_FILE, replace(entry, model_fingerprint="another"))


def test_a_verdict_of_some_seeds_says_of_how_many_and_what_is_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path / "table3", {BASELINE: 0, RAT: 0, OURS: 9}, 5)
    (folder / "sweep.toml").write_text(
        "images_shown = 1600\nseeds = 5\n[settings]\ndataset = 'demo-birds'\n"
        f"[rows.{BASELINE}]\nvariant = 'galip'\n[rows.{RAT}]\nvariant = 'rat'\n[rows.'{OURS}']\nvariant = 'ratlip'\n",
        encoding="utf-8",
    )
    entries = read_ledger(folder)
    broken = [replace(one, state="broken", reason="no memory", scores={}) if one.run == f"{OURS}-seed3" else one
              for one in entries]  # fmt: skip
    write_ledger(folder, [one for one in broken if one.run != f"{BASELINE}-seed4"])
    folders = Folders(tmp_path / "none", folder, tmp_path / "none")
    found = claims(folders)
    assert found[0].verdict == "holds (3 of 5 seeds so far)"
    assert found[1].verdict.endswith(" (4 of 5 seeds so far)")
    assert "| 3 of 5 | holds (3 of 5 seeds so far) |" in lines_of(found)[0]
    assert f"table3: {OURS}-seed3 is broken: no memory" in provenance(folders)
    assert f"table3: {BASELINE}-seed4 is not done yet" in provenance(folders)
    write_ledger(folders.table3, read_ledger(folders.table3)[:5])
    assert "table3: 10 of 15 runs are not done yet" in provenance(folders)


def test_what_stands_beside_the_numbers_is_printed(tmp_path: Path) -> None:
    folders = Folders(
        made(tmp_path / "table2", {hidden(4): 0, hidden(64): 0}), made(tmp_path / "table3", {BASELINE: 0, OURS: 0}),
        tmp_path / "none",
    )  # fmt: skip
    rows = {hidden(4): 0.25, hidden(64): 0.5}
    measured(folders.table2, GRADCAM_FILE, energy=rows, area=dict.fromkeys(rows, 0.125), zero=dict.fromkeys(rows, 0))
    measured(folders.table3, ANGLES_FILE, angle={BASELINE: 0, OURS: 0}, mismatched={BASELINE: 60, OURS: 65})
    text = provenance(folders)
    assert re.search(r"hide=4: energy 0\.2\d+, the subject's area 0\.1\d+, .*; hide=64: energy 0\.[45]", text)
    assert re.search(r"next caption, RAT\+ATT minus GALIP: (4\.99|5\.0)", text)


def test_a_damaged_measure_is_told(tmp_path: Path) -> None:
    folder = made(tmp_path / "table3", {BASELINE: 0, OURS: 0}, 2)
    measured(folder, ANGLES_FILE, angle={BASELINE: 1, OURS: 1})
    (folder / f"{OURS}-seed0" / ANGLES_FILE).write_bytes(b"damaged")
    with pytest.raises(DataError, match="remove it"):
        claims(Folders(tmp_path / "none", folder, tmp_path / "none"))


def test_claims_are_written_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nwhat was there\n{END}\nafter\n", encoding="utf-8")
    assert ratlip("reproduce", "claims", "--out", tmp_path, "--into", page).code == 0
    once = page.read_text(encoding="utf-8")
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "what was there" not in once
    assert "not measured yet" in once
    assert ratlip("reproduce", "claims", "--out", tmp_path, "--into", page).code == 0
    assert page.read_text(encoding="utf-8") == once
    page.write_text("no marks", encoding="utf-8")
    assert "lacks the marks" in ratlip("reproduce", "claims", "--out", tmp_path, "--into", page).err


def published(folder: Path) -> Path:
    """A sweep folder as a repository keeps it: the ledger and the values of images, without settings and networks."""
    for run in made(folder, {BASELINE: 0, RAT: 0, OURS: 2}, 3).glob("*-seed*"):
        shutil.rmtree(run / "model")
        (run / "config.toml").unlink()
        (run / "scores.json").unlink()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_command_begins_published_results_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path, tiny_settings: TrainSettings, tiny_dataset: Path
) -> None:
    folder = published(tmp_path / "out" / "table3.demo")
    monkeypatch.setattr(reproduce, "PAPERS", small_papers(tmp_path / "papers", tiny_clip, tiny_settings, tiny_dataset))
    shutil.copy(reproduce.PAPERS / "table3.demo.toml", folder / "sweep.toml")
    before = contents(folder)
    for command in (
        ("reproduce", "table3", "--out", folder.parent),
        ("reproduce", "table3", "--out", folder.parent, "--dry-run"),
        ("sweep", reproduce.PAPERS / "table3.demo.toml", "--out", folder),
    ):
        answer = ratlip(*command, "--device", "cpu")
        assert answer.code == 2
        assert f"{folder} holds results whose run folders are not there" in answer.err
        assert "choose another --out" in answer.err
        assert len(answer.err.splitlines()) == 1
        assert contents(folder) == before
    with pytest.raises(DataError, match="move it elsewhere"):
        remove_unbegun(folder / f"{BASELINE}-seed0")
    assert contents(folder) == before
    commands = {one.command for one in claims(ReproduceRequest("claims", out=folder.parent).folders)}
    assert commands == {f"ratlip reproduce {what}" for what in ("table2", "table3", "fig3", "fig5")}
    write_ledger(folder, read_ledger(folder)[1:])
    (folder / "sweep.toml").write_text(
        (folder / "sweep.toml").read_text(encoding="utf-8").replace("seeds = 1", "seeds = 3"), encoding="utf-8"
    )
    hint = ratlip("compare", folder, "--metric", "clip-score").out
    assert "2 of 3 seeds are done" in hint
    assert "go on with" not in hint


def test_a_run_folder_that_was_removed_is_no_published_result(tmp_path: Path) -> None:
    folder = made(tmp_path / "sweep", {BASELINE: 0}, 3)
    assert not is_published(folder)
    shutil.rmtree(folder / f"{BASELINE}-seed1")  # to be trained again
    assert not is_published(folder)
    (folder / f"{BASELINE}-seed1").mkdir()  # as a kill leaves it
    assert not is_published(folder)
    write_ledger(folder, [one for one in read_ledger(folder) if one.seed == 1])  # the others are begun alone
    assert not is_published(folder)
    for seed in (0, 2):
        shutil.rmtree(folder / f"{BASELINE}-seed{seed}")
    assert is_published(folder)  # a ledger alone


def test_a_training_without_its_settings_is_not_removed(tmp_path: Path) -> None:
    weights = tmp_path / "run" / "checkpoints" / "step_00000001" / "generator.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(DataError, match="move it elsewhere"):
        remove_unbegun(tmp_path / "run")
    weights.unlink()
    remove_unbegun(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_weights_of_a_score_are_those_that_were_loaded(
    tmp_path: Path, tiny_settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes on while it is scored is scored again."""
    run = tmp_path / "run"
    for _ in open_session(tiny_settings.replaced(out=str(run), steps=1)).run():
        pass

    def loaded(*given: object) -> object:
        model = load_model(*given)  # type: ignore[arg-type]
        (run / GENERATOR_FILE).write_bytes(b"the next step")
        return model

    monkeypatch.setattr(score, "load_model", loaded)
    assert score_run(run, Protocol(metrics=("clip-score",)), "cpu").state == DONE
    entry = read_entry(run)
    assert entry is not None
    assert entry.state == CHANGED


@pytest.mark.parametrize("alone", [False, True])
def test_a_damaged_ledger_without_its_runs_is_restored_and_not_written_anew(tmp_path: Path, alone: bool) -> None:
    folder = published(tmp_path / "table3.demo")
    if alone:
        for run in folder.glob("*-seed*"):
            shutil.rmtree(run)
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "ledger.jsonl").write_text("\n".join([*lines[:3], "<<<<<<< HEAD", *lines[3:]]), encoding="utf-8")
    answer = ratlip("compare", folder)
    assert answer.code == 1
    assert f"{folder / 'ledger.jsonl'} cannot be read (line 4: " in answer.err
    assert "restore it" in answer.err
    with pytest.raises(UsageError, match="choose another --out"):
        SweepFolder(SweepRequest(PAPERS / "table3.demo.toml", folder, "cpu"))


def test_numbers_of_a_page_are_not_replaced_by_none_unasked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    published(tmp_path / "out" / "table3.demo")
    assert ratlip("reproduce", "claims", "--out", tmp_path / "out", "--into", page).code == 0
    written = page.read_text(encoding="utf-8")
    answer = ratlip("reproduce", "claims", "--out", tmp_path / "none", "--into", page)
    assert answer.code == 2
    assert f"{page} has numbers of a, b, which are not measured in {tmp_path / 'none'}" in answer.err
    assert page.read_text(encoding="utf-8") == written
    assert ratlip("reproduce", "claims", "--out", tmp_path / "none", "--into", page, "--drop-measured").code == 0
    assert "holds" not in page.read_text(encoding="utf-8")


def test_the_pages_minutes_are_those_of_the_ledger() -> None:
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    minutes: dict[str, list[float]] = {}
    for entry in read_ledger(ROOT / "examples" / "experiments" / "table1.demo"):
        minutes.setdefault(entry.row, []).append(entry.seconds / 60)
    assert len(minutes) == 6
    for row, each in minutes.items():
        assert re.search(rf"^\| {re.escape(row)} \|.*\| {np.mean(each):.1f} \|$", page, re.MULTILINE), row


def test_what_cannot_be_reproduced_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (["table4"], "Did you mean 'table"),
        (["table3", "--scale", "demi"], "Did you mean 'demo'?"),
        (["table3", "--into", "page.md"], "--into is for claims"),
        (["table3", "--drop-measured"], "--drop-measured is for --into"),
        (["claims", "--format", "json"], "--format is for tables"),
        (["fig5", "--format", "csv"], "--format is for tables"),
        (
            ["claims", "--jobs", "0", "--shard", "1/2", "--dry-run", "--retry-broken"],
            "--dry-run, --jobs, --shard, --re",
        ),
        (["claims", "--data-dir", "elsewhere", "--device", "cpu"], "--device, --data-dir: claims are read from"),
        (["table3"], "run this in a clone"),
    ):
        answer = ratlip("reproduce", *arguments)
        assert answer.code == 2
        assert says in answer.err
        assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_a_place_for_notes_has_them_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = read_ledger(made(tmp_path / "table3.demo", {BASELINE: 0, RAT: 0}, 2))
    write_ledger(tmp_path / "table3.demo", [replace(first, steps=40), *others])
    _show_table(tmp_path / "table3.demo", "csv")
    told = capsys.readouterr()
    assert told.out.startswith("metric,row,")
    assert f"{first.run} is not trained to its end" in told.err


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> CaptionedImages:
    """Forty rendered birds, four of them the test split."""
    data = tmp_path_factory.mktemp("data")
    return CaptionedImages(
        prepare(PrepareRequest("demo-birds", data_dir=data, count=40, image_size=32)).path, "test", 32
    )


def test_measures_are_of_the_same_images_for_every_model(birds: CaptionedImages, tmp_path: Path) -> None:
    clip = clip_of_grid(tmp_path / "clip", 4)
    first, second = (load_model(str(model_of(tmp_path / f"{seed}", clip, seed))) for seed in (0, 1))
    for measure in (measures.GRADCAM, measures.ANGLES):
        one, other = measure.take(first, birds), measure.take(second, birds)
        assert {name: values.shape for name, values in one.items()} == dict.fromkeys(one, (4,))
        name, constant = ("energy", "area") if measure is measures.GRADCAM else ("angle", None)
        assert not np.array_equal(one[name], other[name])
        assert constant is None or np.array_equal(one[constant], other[constant])
        assert np.array_equal(measure.take(first, birds)[name], one[name])
    area, energy, zero = (measures.gradcam_energy(first, birds)[name] for name in ("area", "energy", "zero"))
    assert np.array_equal(zero == 1, energy == 0)
    assert ((area > 0.05) & (area < 0.6)).all()  # a bird without its perch
    assert ((energy >= 0) & (energy <= 1)).all()


def test_the_energy_does_not_hang_on_one_learned_scalar(birds: CaptionedImages, tmp_path: Path) -> None:
    """The last of the features that the discriminator reads reaches its logit by one scalar alone, which begins at 0.

    At 0, and near it on either side, that feature decides nothing of the logit, nor should it of the maps.
    """
    found = {}
    for scalar in (0.01, 0.0, -0.01):
        folder = tmp_path / str(scalar)
        shutil.copytree(load_model("ratlip-demo").folder, folder)
        tensors = load_file(folder / DISCRIMINATOR_FILE)
        tensors["extractor.b"][1] = scalar
        save_file(tensors, folder / DISCRIMINATOR_FILE)
        values = measures.gradcam_energy(load_model(str(folder)), birds)
        assert values["zero"].max() == 0
        found[scalar] = values["energy"].mean()
    assert abs(found[0.01] - found[0.0]) < 0.1, found
    assert abs(found[-0.01] - found[0.0]) < 0.1, found


def test_the_swap_counts_what_the_classifier_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that shows the same face whatever the caption says changes no age, and keeps all else."""
    model = load_model(str(model_of(tmp_path / "model", clip_of_grid(tmp_path / "clip", 4))))
    monkeypatch.setattr(measures, "SWAPS", 4)
    monkeypatch.setattr(measures, "SWAP_NOISE", 3)
    text = model.encode(["a person"])
    monkeypatch.setattr(type(model), "encode", lambda own, captions: text.expand(len(captions), -1))
    values = measures.swap_of(ROOT / "examples" / "demo" / "classifier.safetensors").take(model, None)  # type: ignore[arg-type]
    assert {name: array.shape for name, array in values.items()} == {"age": (12,), "kept": (12,), "scenes": (12,)}
    assert values["age"].max() == 0
    assert values["kept"].min() == 1
    assert values["scenes"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_captions_of_a_swap_differ_in_the_age_alone() -> None:
    pairs = measures.swapped_captions(measures.SWAPS)
    assert len(set(pairs)) == len(pairs) == 64
    for young, old in pairs:
        assert re.sub(r"\ban? (young|old)\b|\b(young|old)\b", "", young) == re.sub(
            r"\ban? (young|old)\b|\b(young|old)\b", "", old
        )
        stated = said("face", young), said("face", old)
        assert [one["age"] for one in stated] == ["young", "old"]
        assert {**stated[0], "age": ""} == {**stated[1], "age": ""}
    assert len({tuple(sorted(said("face", young).items())) for young, _ in pairs}) > 48  # different faces


def test_claims_of_the_swap_are_over_pairs_of_captions(tmp_path: Path) -> None:
    """Four noise vectors that all say the same of a pair say it once."""
    random = np.random.default_rng(0)
    folder = made(tmp_path / "faces", {BASELINE: 0, OURS: 0}, 3)
    once = {run.name: random.random(16).astype(np.float32) for run in sorted(folder.glob("*-seed*"))}
    found = []
    for noise in (1, 4):
        for name, values in once.items():
            own = np.repeat(values, noise)
            swap = {"age": own, "kept": own, "scenes": np.repeat(np.arange(16), noise)}
            save_measure(folder / name, SWAP_FILE, swap)
        found.append(by_key(Folders(tmp_path / "none", tmp_path / "none", folder))["f3"].measured)
    first, second = found
    assert first is not None
    assert second is not None
    assert first.images == second.images == 16
    assert (second.low, second.high) == pytest.approx((first.low, first.high), rel=1e-5)


def test_a_measure_of_a_dataset_that_is_gone_is_told_by_its_name(
    tmp_path: Path, tiny_settings: TrainSettings, tiny_dataset: Path
) -> None:
    data = tmp_path / "colours"
    shutil.copytree(tiny_dataset, data)
    settings = tiny_settings.replaced(dataset=str(data), out=str(tmp_path / "sweep" / "run"), steps=1)
    (tmp_path / "sweep").mkdir()
    for _ in open_session(settings).run():
        pass
    score_run(tmp_path / "sweep" / "run", Protocol(metrics=("clip-score",)), "cpu")
    entry = read_entry(tmp_path / "sweep" / "run")
    assert entry is not None
    write_ledger(tmp_path / "sweep", [entry])
    data.rename(tmp_path / "moved")
    with pytest.raises((DataError, UsageError)) as told:
        measures.measure_runs(tmp_path / "sweep", measures.ANGLES, "cpu")
    assert str(data) in str(told.value)
    assert "ratlip sweep" not in str(told.value)
    (tmp_path / "moved").rename(data)
    measures.measure_runs(tmp_path / "sweep", measures.ANGLES, "cpu")
    angles = tmp_path / "sweep" / "run" / ANGLES_FILE
    assert tensor_metadata(angles) == {
        "model": entry.model_fingerprint,
        "data": entry.data["fingerprint"],
        "scored": entry.protocol["data_fingerprint"],
        "classifier": "",
        "how": HOW[ANGLES_FILE],
    }
    before = angles.read_bytes()
    for other in (
        replace(entry, data={**entry.data, "fingerprint": "of other data"}),
        replace(entry, protocol={**entry.protocol, "data_fingerprint": "of other data"}),
    ):
        write_ledger(tmp_path / "sweep", [other])
        with pytest.raises(DataError, match="sweep/run was trained and scored on: captions or images differ"):
            measures.measure_runs(tmp_path / "sweep", measures.ANGLES, "cpu")
        assert angles.read_bytes() == before
    write_ledger(tmp_path / "sweep", [entry])
    shutil.rmtree(data / "train")  # as where rendered data are made again for scores
    values = load_file(angles)
    angles.unlink()
    measures.measure_runs(tmp_path / "sweep", measures.ANGLES, "cpu")
    np.testing.assert_equal(load_file(angles), values)


@pytest.fixture
def trained(tmp_path: Path, tiny_settings: TrainSettings, tiny_dataset: Path, tiny_clip: Path) -> Path:
    """A run of two steps on data and by a CLIP of its own, which lie beside it."""
    shutil.copytree(tiny_dataset, tmp_path / "colours")
    shutil.copytree(tiny_clip, tmp_path / "clip")
    places = {"dataset": str(tmp_path / "colours"), "clip": str(tmp_path / "clip"), "out": str(tmp_path / "run")}
    for _ in open_session(tiny_settings.replaced(**places, steps=2)).run():
        pass
    return tmp_path / "run"


def test_a_run_is_scored_by_its_own_clip_wherever_that_is_now(trained: Path) -> None:
    protocol = Protocol(metrics=("fid", "clip-score"), features="clip")
    scores = score_run(trained, protocol, "cpu").scores
    clip = trained.parent / "clip"
    shutil.rmtree(clip)
    assert score_run(trained, protocol, "cpu").scores == scores
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = open_clip.CLIP(**TINY_CLIP)
    save_clip(clip, {"model_cfg": TINY_CLIP, "preprocess_cfg": PREPROCESS}, other.state_dict())
    assert score_run(trained, protocol, "cpu").scores == scores
    assert score_run(trained, replace(protocol, clip=str(clip)), "cpu").scores != scores


def test_a_run_is_not_scored_on_data_that_only_have_the_name(trained: Path) -> None:
    entry = score_run(trained, Protocol(metrics=("clip-score",)), "cpu")
    records = trained.parent / "colours" / "train" / METADATA
    records.write_text(records.read_text(encoding="utf-8").replace("a ", "one "), encoding="utf-8")
    with pytest.raises(DataError, match=r"run cannot be scored: .*colours has the name of the dataset"):
        score_run(trained, Protocol(metrics=("clip-score",)), "cpu")
    assert read_entry(trained) == entry


def test_scores_of_too_few_images_are_none(trained: Path, tmp_path: Path) -> None:
    protocol = Protocol(metrics=("precision-recall",), features="clip", limit=2)
    settings = settings_of_run(trained)
    with pytest.raises(DataError, match="too few real images: 2; precision-recall take at least 4"):
        score_run(trained, protocol, "cpu")
    with pytest.raises(DataError, match="too few real images: 2; precision-recall take at least 4"):
        score.check_scoring(protocol, settings, tmp_path)


def test_images_shown_are_those_of_every_batch_size(trained: Path) -> None:
    size = settings_of_run(trained).batch_size
    for _ in open_session(settings_of_run(trained).replaced(resume=str(trained), steps=5, batch_size=2)).run():
        pass
    assert size != 2
    assert score_run(trained, Protocol(metrics=("clip-score",)), "cpu").images_shown == 2 * size + 3 * 2


def small_papers(folder: Path, tiny_clip: Path, tiny_settings: TrainSettings, dataset: Path) -> Path:
    """Sweep files of table 3 and the faces, of the tiny dataset."""
    flat = tiny_settings.flat()
    sizes = ("generator_channels", "discriminator_channels", "noise_dim", "batch_size", "workers", "sample_every")
    stays = {"dataset": str(dataset), "clip": str(tiny_clip), "image_size": 32, **{one: flat[one] for one in sizes}}
    for name in ("table3", "faces"):
        rows = {run.row: {"variant": run.settings.variant} for run in paper(name, "demo").runs}
        content = {"images_shown": 8, "seeds": 1, "settings": stays, "rows": rows, "evaluation": {"features": "clip"}}
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.demo.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def fig5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path, tiny_settings: TrainSettings, tiny_dataset: Path
) -> ReproduceRequest:
    """What figure 5 takes, of small sweeps."""
    monkeypatch.setattr(reproduce, "PAPERS", small_papers(tmp_path / "papers", tiny_clip, tiny_settings, tiny_dataset))
    return ReproduceRequest("fig5", out=tmp_path / "runs")


def test_broken_runs_end_nothing_before_all_sweeps_are_made(fig5: ReproduceRequest) -> None:
    folders = [SweepFolder(SweepRequest(fig5.file(name), fig5.folder(name))) for name in ("table3", "faces")]
    for folder in folders:
        folder.open()
        for run in folder.sweep.runs:
            folder.set_broken(run, f"{run.name} went wrong", again=False)
    answer = ratlip("reproduce", "fig5", "--out", fig5.out, "--device", "cpu")
    assert answer.code == 1
    assert "5 of 5 runs are broken" in answer.err
    assert "no figures, for runs are broken" in answer.err
    assert all((folder.path / "ledger.jsonl").is_file() for folder in folders), "the second sweep is made too"


def test_a_shard_leaves_figures_to_the_call_that_finds_all_done(fig5: ReproduceRequest) -> None:
    for name in ("table3", "faces"):
        folder = SweepFolder(SweepRequest(fig5.file(name), fig5.folder(name), shard="1/2"))
        folder.open()
        for run in folder.ordered:
            place = folder.path / run.name
            place.mkdir()
            (place / "config.toml").write_text(run.settings.to_toml(), encoding="utf-8")
            flat = run.settings.flat()
            protocol = json.loads(json.dumps(asdict(folder.sweep.protocol)))
            entry = Entry(run.row, run.seed, run.name, DONE, None, flat, "", steps=2, protocol=protocol)
            write_entry(place, entry)
    answer = ratlip("reproduce", "fig5", "--out", fig5.out, "--device", "cpu", "--shard", "1/2")
    assert answer.code == 0, answer.err
    assert "2 of 5 runs are not done yet; the call that finds all of them done draws figures" in answer.err


@pytest.mark.slow
def test_the_classifier_reads_the_age_of_rendered_faces() -> None:
    """Faces that differ in the age alone, at the size of the faces' sweep: what a perfect model would be given."""
    size = int(paper("faces", "demo").runs[0].settings.model["image_size"])
    classifier = load_classifier(ROOT / "examples" / "demo" / "classifier.safetensors")
    answers = {}
    for age in ("young", "old"):
        drawn = [
            render("face", {**sample_attributes("face", random.Random(k)), "age": age}, random.Random(k), size).image
            for k in range(100)
        ]
        answers[age] = classifier.answers(torch.stack(list(map(from_image, drawn))), "face")
    young, old = answers["young"], answers["old"]
    right = [one == "young" and other == "old" for one, other in zip(young["age"], old["age"], strict=True)]
    assert np.mean(right) > 0.9
    for name in set(young) - {"age"}:
        assert np.mean([one == other for one, other in zip(young[name], old[name], strict=True)]) > 0.9


@pytest.mark.slow
def test_tables_and_figures_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path, tiny_settings: TrainSettings
) -> None:
    """The rows of the papers' files on one seed, with networks of milliseconds: every claim has its number then."""
    flat = tiny_settings.flat()
    sizes = ("generator_channels", "discriminator_channels", "noise_dim", "batch_size", "workers", "sample_every")
    papers = tmp_path / "papers"
    papers.mkdir()
    for name in ("table2", "table3", "faces"):
        dataset = "demo-faces" if name == "faces" else "demo-birds"
        stays = {"dataset": dataset, "clip": str(tiny_clip), "image_size": 32, **{one: flat[one] for one in sizes}}
        rows = {
            run.row: {"variant": run.settings.variant}
            | ({"hidden_size": run.settings.model["hidden_size"]} if run.settings.variant == "ratlip" else {})
            for run in paper(name, "demo").runs
            if run.row != "hide=0"  # no claim is about it
        }
        content = {"images_shown": 8, "seeds": 1, "settings": stays, "rows": rows, "evaluation": {"features": "clip"}}
        (papers / f"{name}.demo.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
        if name != "table3":
            prepare(PrepareRequest(dataset, data_dir=tmp_path / "data", count=40, image_size=32))
    monkeypatch.setattr(reproduce, "PAPERS", papers)
    monkeypatch.setattr(measures, "SWAPS", 4)
    monkeypatch.chdir(ROOT)
    where = ("--out", tmp_path / "runs", "--data-dir", tmp_path / "data", "--device", "cpu", "--jobs", "2")
    table = ratlip("reproduce", "table3", *where)
    assert table.code == 0, table.err
    assert f"| {OURS} | 1 |" in table.out
    assert "not decided by 1 seed" in table.out
    for figure in ("fig3", "fig5"):
        answer = ratlip("reproduce", figure, *where)
        assert answer.code == 0, answer.err
        assert any(Path(file).suffix == ".png" for file in answer.out.splitlines())
        assert all(Path(file).is_file() for file in answer.out.splitlines())
    numbers = ratlip("reproduce", "claims", *where[:2]).out
    assert "not measured yet" not in numbers
    assert numbers.count("not decided by 1 seed") == 9
