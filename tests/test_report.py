"""`ratlip report`: what the page says, that nothing in it runs or loads but its own, and how it looks in a browser."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from command_line import ratlip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli_train import options
from test_runs import make_run

from ratlip_cli.errors import RatlipError, UsageError
from ratlip_cli.experiments.ledger import DONE, GENERATOR_FILE, Entry, digest_of, write_ledger
from ratlip_cli.files import locked, sha256_of
from ratlip_cli.training.settings import TrainSettings, all_settings, settings_of_run
from ratlip_cli.web.advice import advice
from ratlip_cli.web.charts import POINTS, Curve, chart
from ratlip_cli.web.records import Metrics, read_metrics
from ratlip_cli.web.report import (
    LARGEST,
    OVERLAID,
    OVERLAID_TOO,
    Page,
    ReportRequest,
    _rendered,
    page_of,
    report,
)

if TYPE_CHECKING:
    from browser import Visit

pytest_plugins = ["browser"]

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def finished(tiny_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of twelve steps with four grids and two evaluations."""
    folder = tmp_path_factory.mktemp("runs") / "sweep" / "first"
    folder.parent.mkdir()
    scored = ("--eval-every", "6", "--eval-features", "clip", "--eval-captions", "1")
    own = tiny_settings.replaced(out=str(folder), similarity_weight=1.5)
    answer = ratlip("train", *options(own), "--steps", "12", "--sample-every", "3", *scored, "-q")
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the working directory is an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "runs" / "first"))


def tables(page: Page, title: str) -> list[list[str]]:
    """All rows of all tables of a section."""
    (section,) = [one for one in page.sections if one.title == title]
    shown = [*section.tables, *(table for _, table in section.folded)]
    return [list(row) for table in shown for row in table.rows]


class Tags(HTMLParser):
    """What a browser would make of a page: its elements, and the texts outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_run_is_told_by_its_records(run: Path) -> None:
    page = page_of(ReportRequest(str(run)))
    facts = dict(page.facts)
    assert (page.kind, page.title, facts["State"], facts["Steps"]) == ("run", "first", "finished", "12 of 12")
    (curves,) = [one for one in page.sections if one.title == "Curves"]
    by_title = {one.title: one for one in curves.charts}
    assert {"Losses", "Logits of the discriminator", "Gradient penalty", "CLIP similarity", "fid_clip"} <= set(by_title)
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    values = {(row["c"], row["x"]): row["y"] for row in by_title["Losses"].spec["data"]["values"]}
    assert by_title["Losses"].table.columns == ["step", "loss_d", "loss_g"]
    for record in records:
        assert values["c0", record["step"]] == pytest.approx(record["loss_d"], rel=1e-3)
        assert values["c1", record["step"]] == pytest.approx(record["loss_g"], rel=1e-3)
    real = {record["clip_similarity_real"] for record in records if "clip_similarity_real" in record}
    assert len(real) == 1
    assert "clip_similarity_real" in by_title["CLIP similarity"].table.columns
    (samples,) = [one for one in page.sections if one.title == "Samples"]
    assert [slide.title for slide in samples.slides] == ["step 3", "step 6", "step 9", "step 12"]
    changed = {row[0]: row[1:3] for row in tables(page, "Settings")}
    assert changed["similarity_weight"] == ["1.5", "4.0"]
    assert changed["seed"] == ["0", "0"]
    environment = dict(tables(page, "Environment"))
    kept = json.loads((run / "environment.json").read_text())
    assert (environment["torch"], environment["platform"]) == (kept["packages"]["torch"], kept["platform"])
    scores = json.loads((run / "best" / "evaluation.json").read_text())["evaluation"]
    shown = [row for row in tables(page, "Scores") if scores["fingerprint"] in row and "standard" in row]
    assert {row[0] for row in shown} == set(scores["metrics"])


def test_a_page_holds_nothing_foreign_and_runs_nothing_foreign(run: Path) -> None:
    """Every name and text that comes from files is hostile here."""
    own = Path(shutil.copytree(run, run.with_name(HOSTILE.replace("/", "\\"))))
    config = own / "config.toml"
    config.write_text(
        config.read_text().replace('clip = "', f'clip = "{HOSTILE}'.replace('"d', '\\"d').replace("'\"", "'\\\""))
    )
    with (own / "metrics.jsonl").open("a") as lines:
        lines.write(
            json.dumps({"step": 13, "loss_g": 1.0, HOSTILE: 2.0, "evaluation": HOSTILE, f"fid{HOSTILE}": 1}) + "\n"
        )
    score = {"protocol": HOSTILE, "fingerprint": HOSTILE, "metrics": {HOSTILE: {"value": HOSTILE, "features": HOSTILE}}}
    (own / "score.json").write_text(json.dumps(score))
    (own / "environment.json").write_text(json.dumps({"platform": HOSTILE, "devices": [{"device": HOSTILE}]}))
    (own / "gradcam").mkdir()
    shutil.copy(next((own / "samples").iterdir()), own / "gradcam" / "0000_x.png")
    figure = {"command": "gradcam", "models": [{"model": str(own)}], "says": [HOSTILE], "files": ["0000_x.png"]}
    (own / "gradcam" / "0000_x.json").write_text(json.dumps(figure))
    for subject in (own, own.parent):
        page = Tags(_rendered(page_of(ReportRequest(str(subject))), library="/* charts */"))
        assert [tag for tag, _ in page.tags].count("script") == 3
        assert not [(tag, name) for tag, given in page.tags for name in given if name.startswith("on")]
        links = [value for _, given in page.tags for name, value in given.items() if name in ("src", "href")]
        assert all(value and value.startswith(("data:", "#")) for value in links)
        assert "onerror" in page.text
        assert "49" not in page.text.split("onerror")[1][:60]


def test_a_run_that_goes_on_or_is_damaged_is_shown(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:4], b"\xff\n[1]\n", lines[4], lines[5][:30]]))
    (run / "samples" / "step_00000012.png").write_bytes(b"\x89PNG half")
    (run / "environment.json").unlink()
    with locked(run / ".lock") as alone:  # as the training process holds it
        page = page_of(ReportRequest(str(run)))
    assert alone
    assert dict(page.facts)["Steps"] == "5 of 12"
    assert dict(page.facts)["State"].startswith("it trains now")
    (samples,) = [one for one in page.sections if one.title == "Samples"]
    assert [slide.title for slide in samples.slides] == ["step 3", "step 6", "step 9"]
    assert next(one.about for one in page.sections if one.title == "Environment").startswith("Not recorded")
    (run / "config.toml").write_text("learning = ?")
    damaged = page_of(ReportRequest(str(run)))
    assert any("cannot read the settings" in line for line in damaged.warnings)
    assert _rendered(damaged, library="")


SCORE = {
    "protocol": {"resize": "clean"},
    "fingerprint": "0" * 16,
    "metrics": {"fid": {"value": 3.5, "interval": [3.0, 4.0], "features": "x", "n_fake": 5, "n_real": 5}},
}
RECORDS: dict[str, Any] = {
    "metrics.jsonl": {
        "step": 90,
        "skipped": False,
        **dict.fromkeys(("loss_d", "loss_g", "logit_real", "logit_fake", "logit_mismatched", "penalty_norm"), 1.0),
        **dict.fromkeys(("clip_similarity", "clip_similarity_real", "variety_noise", "variety_captions"), 0.5),
        "fid_clip": 3.5,
        "evaluation": "0" * 16,
    },
    "environment.json": {
        "ratlip": "1",
        "devices": [{"device": "cpu", "name": "x"}],
        "threads": {"a": 1},
        "packages": {},
    },
    "checkpoints/step_00000060/checkpoint.json": {"format": 1, "step": 60, "images_seen": 240},
    "model/config.json": {"training": {"data": {"images": 40}}},
    "score.json": SCORE,
    "best/evaluation.json": {"step": 60, "metric": "fid", "value": 3.5, "evaluation": SCORE},
    "gradcam/0000_x.json": {"command": "gradcam", "models": [{"model": "m", "fingerprint": "0" * 16}], "says": ["a"]}
    | {"files": ["0000_x.png"]},
    "../ledger.jsonl": {"row": "full", "seed": 0, "run": "run", "state": "done", "scores": {"fid": 3.5}, "steps": 9}
    | {"reason": None, "settings": {"dataset": "demo", "variant": "ratlip", "lr_g": 1.0}, "settings_digest": "0" * 16}
    | {"protocol": {"metrics": ["fid"], "networks": {"CLIP x": {"resize": "clean"}}}, "scored_by": {"machine": "x"}}
    | {"version": "1", "commit": None, "machine": "x", "files": {"config.toml": "0" * 64}},
}
"""All records that a report reads, by their places in a run folder, as they are written."""

ODD: tuple[Any, ...] = (None, True, 0, 5, -1, 10**400, 2**60, 0.5, 1e60, 1e308, -1.7e308, math.inf, math.nan)
ODD += ("", "x", "12", "a\0b.png", "\ud800", "y" * 300 + ".png", "/" * 5000, [], [None], [5, [[]]], {}, {"a": None})


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values in a record, itself first."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*at, key))


def with_value(record: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The record with another value at a place."""
    if not at:
        return value
    changed = dict(record) if isinstance(record, dict) else dict(enumerate(record))
    changed[at[0]] = with_value(changed[at[0]], at[1:], value)
    return changed if isinstance(record, dict) else list(changed.values())


def at_depth(record: Any, depth: int, value: Any) -> Any:
    """The record with another value at all places that are so deep in it."""
    for at in [at for at in places(record) if len(at) == depth]:
        record = with_value(record, at, value)
    return record


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of records alone, in a folder of runs."""
    run = make_run(tmp_path_factory.mktemp("odd") / "run", 60, steps=None, epochs=2)
    (run / "gradcam").mkdir()
    (run / "best").mkdir()
    Image.new("RGB", (8, 8)).save(run / "gradcam" / "0000_x.png")
    return run


@pytest.fixture
def told(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Makes the reports of a run and of its folder with these records in it; what their charts hold are numbers."""
    monkeypatch.chdir(recorded)
    monkeypatch.setattr("ratlip_cli.web.report.fingerprint_of", lambda folder: "0" * 16)  # so that figures are read

    def tell(records: dict[str, Any]) -> None:
        for name, record in records.items():
            line = json.dumps(record)
            (recorded / name).write_text(f"{json.dumps(RECORDS[name])}\n{line}\n{line}\n" if "jsonl" in name else line)
        for subject in (recorded, recorded.parent):
            page = page_of(ReportRequest(str(subject)))
            json.dumps(page.charts, allow_nan=False)
            shown = [table for section in page.sections for table in section.tables]
            assert all(isinstance(cell, str) for table in shown for row in table.rows for cell in row)

    return tell


@pytest.mark.parametrize("value", ODD, ids=lambda value: f"{value!a:.12}")
def test_odd_values_all_over_the_records_cost_no_report(told: Callable[[dict[str, Any]], None], value: Any) -> None:
    for depth in range(5):
        told({name: at_depth(record, depth, value) for name, record in RECORDS.items()})


@pytest.mark.slow
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_odd_values_here_and_there_cost_no_report(told: Callable[[dict[str, Any]], None], data: st.DataObject) -> None:
    records = dict(RECORDS)
    for name in data.draw(st.lists(st.sampled_from(list(RECORDS)), min_size=1, max_size=4)):
        at, value = data.draw(st.sampled_from(list(places(records[name])))), data.draw(st.sampled_from(ODD))
        records[name] = with_value(records[name], at, value)
    told(records)


def test_values_that_are_too_large_are_shown_and_warned_of(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    lines = [{"step": step, "loss_d": 1.7e308, "loss_g": -1.7e308, "penalty_norm": 1e60} for step in range(1, 2001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = read_metrics(tmp_path)
    curves = [Curve(name, metrics.steps(name), metrics.values(name)) for name in ("loss_d", "loss_g")]
    values = [row["y"] for row in chart("Losses", "", curves).spec["data"]["values"]]
    assert min(values) < 0 < max(values)
    assert all(map(math.isfinite, values))
    assert any("penalty explodes" in line for line in advice(metrics, tiny_settings))


def test_a_model_that_is_damaged_costs_its_figures_alone(run: Path) -> None:
    """Such as one that a kill left without its weights."""
    (run / "best" / "generator.safetensors").unlink()
    (run / "gradcam").mkdir()
    shutil.copy(next((run / "samples").iterdir()), run / "gradcam" / "0000_x.png")
    figure = {"command": "gradcam", "models": [{"model": str(run)}], "says": [], "files": ["0000_x.png"]}
    (run / "gradcam" / "0000_x.json").write_text(json.dumps(figure))
    page = page_of(ReportRequest(str(run)))
    (line,) = [line for line in page.warnings if "cannot be read" in line]
    assert line.startswith("The model in best/ cannot be read")
    assert [one.title for one in page.sections if one.images] == ["Grad-CAM and latent views"]
    (run / "model" / "config.json").write_text("{")
    assert sum("cannot be read" in line for line in page_of(ReportRequest(str(run))).warnings) == 2


def test_figures_and_scores_of_other_models_are_no_runs_own(run: Path) -> None:
    """Nor where its own models cannot be read."""
    figures_in(run.parent.parent / "gradcam", 1)
    for folder in ("model", "best"):
        (run / folder / "generator.safetensors").write_bytes(b"cut")
    scores = {"metrics": {"fid_clip": {"value": 1.0}}, "fingerprint": "f" * 16, "protocol": "standard"}
    made = {"model_fingerprint": "a" * 16, "precision": "bf16", "model_format": "onnx"}
    (run / "score.json").write_text(json.dumps(scores | made))
    page = page_of(ReportRequest(str(run)))
    assert not [one for one in page.sections if one.title == "Grad-CAM and latent views"]
    assert f"The scores in score.json are of model {'a' * 16}, which is not here, or no longer." in page.warnings
    assert [row for row in tables(page, "Scores") if "standard, images in onnx, images in bf16" in row]
    given = page_of(ReportRequest("ratlip-demo", scores=[run / "score.json"]))
    assert [line for line in given.warnings if "a" * 16 in line]


def figures_in(folder: Path, count: int) -> Path:
    """A folder with so many figures of a model that is not there."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:04d}_x.png")
        record = {"command": "gradcam", "models": [{"model": "gone"}], "says": [], "files": [f"{number:04d}_x.png"]}
        (folder / f"{number:04d}_x.json").write_text(json.dumps(record))
    return folder


def test_figures_that_are_given_are_shown_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run, and of a folder of runs."""
    monkeypatch.chdir(tmp_path)
    run, many = make_run(tmp_path / "runs" / "run", 4), figures_in(tmp_path / "many", 20)
    few, empty = figures_in(tmp_path / "few", 3), figures_in(tmp_path / "empty", 0)
    for subject in (run, run.parent):
        for folder, count, told in ((many, 16, " 16 of 20 figures are shown."), (few, 3, "")):
            page = page_of(ReportRequest(str(subject), figures=[folder]))
            (section,) = [one for one in page.sections if one.images]
            assert (len(section.images), section.about.partition(".")[2]) == (count, told)
        for wrong in (empty, many / "0000_x.json"):
            with pytest.raises(UsageError, match=rf"--figures .*{wrong.name} holds none"):
                page_of(ReportRequest(str(subject), figures=[wrong]))


def test_a_folder_of_runs_tells_what_it_leaves_out_and_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more runs than slides, those that were written to last are shown."""
    monkeypatch.setattr("ratlip_cli.web.report.MOST_SLIDES", 3)
    for number in range(5):  # r0 is the newest
        run = make_run(tmp_path / f"r{number}", 4)
        (run / "samples").mkdir()
        Image.new("RGB", (8, 8)).save(run / "samples" / "step_00000001.png")
        for name in ("metrics.jsonl", "config.toml"):
            os.utime(run / name, (10**9 - number, 10**9 - number))
    page = page_of(ReportRequest(str(tmp_path)))
    (samples,) = [one for one in page.sections if one.title == "Samples"]
    assert [slide.title[:2] for slide in samples.slides] == ["r2", "r1", "r0"]
    assert "3 of 5 runs are shown" in samples.about
    assert page.warnings == []
    (tmp_path / "r3" / "config.toml").write_text("learning = ?")
    (warning,) = page_of(ReportRequest(str(tmp_path))).warnings
    assert warning.startswith("r3: The run is damaged: ")
    assert warning.removeprefix("r3: ") in page_of(ReportRequest(str(tmp_path / "r3"))).warnings


def test_settings_stand_under_the_names_that_they_have_now(tmp_path: Path) -> None:
    """Of the bundled model, which was trained when one of them was called otherwise, and of such a ledger."""
    counted: list[int] = []
    page = page_of(ReportRequest("ratlip-demo"), lambda what, done, total, unit: counted.append(done))
    assert counted == list(range(17))  # from before the first batch on, so that the rate is that of all images
    rows = {row[0]: row[1:] for row in tables(page, "Training")}
    assert rows["similarity_weight"][:2] == ["0.4", "0.4"]
    assert "clip_weight" not in rows
    entry = {"row": "full", "seed": 0, "run": "gone", "state": "done"}
    entry |= {"settings": {"dataset": "demo", "variant": "ratlip", "clip_weight": 0.5}}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(entry) + "\n")
    page = page_of(ReportRequest(str(tmp_path)))
    assert tables(page, "Settings") == [["similarity_weight", "0.5 (preset: 0.4)"]]
    assert "Curves" not in [one.title for one in page.sections]  # there is no run folder


def test_files_of_other_names_are_no_samples(run: Path) -> None:
    """Copies that file managers make, and people."""
    grid = run / "samples" / "step_00000012.png"
    for name in ("step_00000012 (copy).png", "step_last.png", "step_.png", "step_-1.png"):
        shutil.copy(grid, grid.with_name(name))
    page = page_of(ReportRequest(str(run)))
    (samples,) = [one for one in page.sections if one.title == "Samples"]
    assert [slide.title for slide in samples.slides] == ["step 3", "step 6", "step 9", "step 12"]
    (samples,) = [one for one in page_of(ReportRequest(str(run.parent))).sections if one.title == "Samples"]
    assert [slide.title for slide in samples.slides] == ["first, step 00000012"]


@pytest.mark.slow
def test_a_report_of_hundreds_of_runs_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With charts of those that were written to last; also where the charts alone, or the tables, would be too much."""
    pytest.importorskip("vl_convert", reason="vl-convert is missing: pip install 'ratlip[report]'")
    monkeypatch.chdir(tmp_path)
    first = make_run(tmp_path / "runs" / "r000", 0)
    (first / "samples").mkdir()
    Image.new("RGB", (64, 64)).save(first / "samples" / "step_00000001.png")
    rng, names = np.random.default_rng(0), (*OVERLAID, *OVERLAID_TOO, "fid_clip", "clip_score")
    values = rng.normal(size=(100, len(names))).tolist()
    lines = [{"step": step, **dict(zip(names, row, strict=True))} for step, row in enumerate(values, 1)]
    (first / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number in range(1, 250):
        other = Path(shutil.copytree(first, first.with_name(f"r{number:03d}")))
        os.utime(other / "metrics.jsonl", (10**9 + number, 10**9 + number))
        os.utime(other / "config.toml", (10**9, 10**9))
    os.utime(first / "metrics.jsonl", (10**9, 10**9))
    os.utime(first / "config.toml", (10**9, 10**9))
    out = tmp_path / "all.html"
    page = report(ReportRequest(str(first.parent)), out)
    assert out.stat().st_size < LARGEST
    assert page.notes == ()
    assert len(tables(page, "Runs")) == 250
    (curves,) = [one for one in page.sections if one.title == "Curves"]
    assert "32 of 250 are shown, those that were written to last" in curves.about
    shown = [f"r{number:03d}" for number in range(218, 250)]
    assert all(sorted(one.table.columns[1:]) == shown for one in curves.charts)
    assert any(section.slides for section in page.sections)
    for number in (1, 2):
        limit = out.stat().st_size
        monkeypatch.setattr("ratlip_cli.web.report.LARGEST", limit)
        page = report(ReportRequest(str(first.parent)), out)
        assert out.stat().st_size < limit
        assert len(page.notes) == number
        assert not any(section.slides for section in page.sections)
        assert bool(page.charts) == (number == 1)
    monkeypatch.setattr("ratlip_cli.web.report.LARGEST", 1000)
    before = out.read_bytes()
    with pytest.raises(RatlipError, match=r"would be larger than 1,000 bytes"):
        report(ReportRequest(str(first.parent)), out)
    assert out.read_bytes() == before


@pytest.mark.slow
def test_texts_of_any_length_stay_small(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="vl-convert is missing: pip install 'ratlip[report]'")
    content = {"platform": "x" * 6_000_000, "packages": {f"p{number}": "1" for number in range(20_000)}}
    (run / "environment.json").write_text(json.dumps(content))
    page = report(ReportRequest(str(run)), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < LARGEST
    assert len(tables(page, "Environment")) == 400
    assert "Tables are cut to 400 rows" in page.notes[-1]


def test_a_sweep_is_a_table_and_curves_over_each_other(run: Path) -> None:
    shutil.copytree(run, run.with_name("second"))
    alone = page_of(ReportRequest(str(run.parent)))
    assert (alone.kind, len(tables(alone, "Runs"))) == ("runs", 2)
    entries = [
        {"row": "full", "seed": 0, "run": "first", "state": "done", "scores": {"clip-score": 31.25}, "steps": 12},
        {"row": "no lstm", "seed": 1, "run": "gone", "state": "broken", "reason": "the memory was full", "scores": {}},
    ]
    (run.parent / "ledger.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    page = page_of(ReportRequest(str(run.parent)))
    assert page.kind == "sweep"
    rows = {row[0]: row[1:] for row in tables(page, "Runs")}
    assert rows["first"][:4] == ["full", "0", "done", "12"]
    assert "31.2500" in rows["first"]
    assert rows["gone"][-1] == "the memory was full"
    assert rows["second"][2] == "finished"
    (curves,) = [one for one in page.sections if one.title == "Curves"]
    assert all(one.table.columns == ["step", "first", "second"] for one in curves.charts)
    assert {"loss_g", "clip_similarity", "fid_clip"} <= {one.title for one in curves.charts}


def entry_of(run: Path, row: str, seed: int, **others: Any) -> Entry:
    """What `ratlip sweep` would write of a run that it scored, but for the scores themselves."""
    own = settings_of_run(run).flat()
    networks = {"CLIP ratlip-demo": {"fingerprint": "c" * 16, "resize": "antialiased bicubic to 64"}}
    files = {GENERATOR_FILE: sha256_of(run / GENERATOR_FILE)}
    entry = Entry(row, seed, run.name, DONE, None, own, digest_of(own), files=files, version="0.9", machine="a Z80")
    protocol = {"metrics": ["fid"], "split": "test", "clip": None, "networks": networks}
    entry = replace(entry, commit="abc", scored_by={"machine": "a 6502"}, protocol=protocol, scores={"fid": 20.5})
    return replace(entry, model_fingerprint=f"{seed}" * 16, **others)


def test_a_sweep_tells_how_its_runs_were_made_and_scored(run: Path) -> None:
    other = Path(shutil.copytree(run, run.with_name("second")))
    config = other / "config.toml"
    config.write_text(re.sub(r"(?m)^lr_g = .*", "lr_g = 0.5", config.read_text()))
    third = Path(shutil.copytree(run, run.with_name("third")))
    entries = [entry_of(run, "full", 0), entry_of(other, "fast", 1), entry_of(third, "full", 2, machine="an abacus")]
    write_ledger(run.parent, entries)
    page = page_of(ReportRequest(str(run.parent)))
    (section,) = [one for one in page.sections if one.title == "Scores"]
    said = f"All were scored alike: metrics fid_clip, split test, networks CLIP ratlip-demo (fingerprint {'c' * 16}"
    assert said in section.about
    assert section.tables[0].columns == ["run", "fid_clip", "fingerprint"]
    assert tables(page, "Scores")[1] == ["second", "20.5000", f"model {'1' * 16}"]
    (run / "scores.json").write_text(json.dumps(asdict(entries[0])))
    assert "fid_clip" in [row[0] for row in tables(page_of(ReportRequest(str(run))), "Scores") if "20.5000" in row]
    (settings,) = [one for one in page.sections if one.title == "Settings"]
    assert settings.tables[0].columns == ["setting", "full", "fast"]
    rows = {row[0]: row[1:] for row in tables(page, "Settings")}
    assert rows["lr_g"] == ["0.0001", "0.5 (preset: 0.0001)"]
    assert rows["similarity_weight"] == ["1.5 (preset: 4.0)"] * 2
    assert not {"seed", "beta1", "out"} & rows.keys()
    environment = [row for row in tables(page, "Environment") if row[0] in ("machine", "scored by: machine", "commit")]
    assert environment == [
        ["commit", "abc", "all"],
        ["machine", "a Z80", "2: first, second"],
        ["machine", "an abacus", "1: third"],
        ["scored by: machine", "a 6502", "all"],
    ]
    kept = json.loads((run / "environment.json").read_text())
    assert ["torch", kept["packages"]["torch"], "all"] in tables(page, "Environment")
    write_ledger(
        run.parent, [*entries[:2], entry_of(third, "full", 2, protocol={"metrics": ["fid"], "split": "unseen"})]
    )
    (section,) = [one for one in page_of(ReportRequest(str(run.parent))).sections if one.title == "Scores"]
    assert "2 manners" in section.about
    assert section.tables[0].rows[2][-1] == "metrics fid, split unseen"


def test_the_state_of_a_sweeps_run_is_that_of_its_folder_now(run: Path) -> None:
    changed, trains = (Path(shutil.copytree(run, run.with_name(name))) for name in ("changed", "trains"))
    write_ledger(run.parent, [entry_of(one, "full", 0) for one in (run, changed, trains)])
    with (changed / GENERATOR_FILE).open("ab") as file:
        file.write(b"x")
    with locked(trains / ".lock") as alone:
        page = page_of(ReportRequest(str(run.parent)))
    assert alone
    rows = {row[0]: row[1:] for row in tables(page, "Runs")}
    assert {name: row[2] for name, row in rows.items()} == {"first": "done", "changed": "changed", "trains": "running"}
    assert rows["changed"][-1] == f"{GENERATOR_FILE} was changed after it was scored"


@pytest.mark.slow
def test_a_model_of_a_run_has_its_environment_and_the_preset(run: Path, tmp_path: Path) -> None:
    kept = json.loads((run / "environment.json").read_text())
    for folder in (run / "best", run / "model"):
        page = page_of(ReportRequest(str(folder)))
        assert dict(tables(page, "Environment"))["torch"] == kept["packages"]["torch"]
        (training,) = [one for one in page.sections if one.title == "Training"]
        assert training.tables[0].columns == ("setting", "value", "preset", "meaning")
        changed = {row[0]: row[1:3] for row in training.tables[0].rows}
        assert changed["similarity_weight"] == ["1.5", "4.0"]
        assert changed["batch_size"][0] == "4"
        assert "beta1" not in changed
    page = page_of(ReportRequest(str(shutil.copytree(run / "model", tmp_path / "alone"))))
    (section,) = [one for one in page.sections if one.title == "Environment"]
    assert (section.about.startswith("Not recorded: "), section.tables) == (True, [])


@pytest.mark.slow
def test_a_model_is_told_and_generates_its_samples(run: Path) -> None:
    model = run / "best"
    (model / "samples.png").unlink(missing_ok=True)
    page = page_of(ReportRequest(str(model)))
    facts = dict(page.facts)
    assert (page.kind, facts["Licence"], facts["Model"]) == ("model", "CC0", "ratlip, 32 x 32 pixels")
    assert [one.title for one in page.sections] == ["Samples", "Scores", "Modules", "Training", "Environment"]
    assert {row[0]: row[1] for row in tables(page, "Training")}["batch_size"] == "4"
    assert page.sections[0].images[0].uri.startswith("data:image/webp;base64,")


def healthy() -> Metrics:
    metrics = Metrics()
    for step in range(1, 1001):
        metrics.take(
            {"step": step, "loss_d": 1.0, "loss_g": 1.0, "logit_real": 0.9, "logit_fake": -0.7, "penalty_norm": 0.5}
            | {"logit_mismatched": -0.3, "clip_similarity": 0.3, "clip_similarity_real": 0.4, "skipped": False}
            | ({"variety_noise": 0.4, "variety_captions": 0.5, "fid": 20.0} if step % 100 == 0 else {})
        )
    return metrics


WRONG = {
    "not finite": ({"skipped": True}, "--lr-d"),
    "above that of real": ({"clip_similarity": 0.5}, "--similarity-weight"),
    "penalty explodes": ({"penalty_norm": 2.0, "loss_d": 129.0}, "--lr-d"),
    "has won": ({"logit_real": 4.0, "logit_fake": -4.0, "logit_mismatched": -3.0}, "--lr-d"),
    "does not read the text": ({"logit_mismatched": 0.9}, "--batch-size"),
    "under one caption have become alike": ({"variety_noise": 0.01}, "--diversity-weight"),
    "different captions have become alike": ({"variety_captions": 0.01}, "--lr-g"),
    "gets worse": ({"fid": 30.0}, "--decay-from"),
}


def test_a_healthy_run_is_not_warned_of(tiny_settings: TrainSettings) -> None:
    assert advice(healthy(), tiny_settings) == []


@pytest.mark.parametrize("sign", WRONG)
def test_what_goes_wrong_is_said_with_the_setting_that_helps(tiny_settings: TrainSettings, sign: str) -> None:
    metrics, (values, option) = healthy(), WRONG[sign]
    normal = {"logit_real": 0.9, "logit_fake": -0.7, "logit_mismatched": -0.3, "loss_d": 1.0}
    for step in range(1001, 1301):
        metrics.take({"step": step, **normal, **values})
    (line,) = advice(metrics, tiny_settings)
    assert sign in line
    assert option in line
    known = {f"--{name.replace('_', '-')}" for name in all_settings()}
    assert set(re.findall(r"--[a-z-]+", line)) <= known


LAFITE = {"loss_d": 1.0, "logit_real": 0.9, "logit_fake": -0.7, "match_real": -1.8, "match_fake": -1.8}
WRONG_OF_LAFITE = {
    "penalty explodes: R1": ({"r1": 20.0, "loss_d": 3.0}, "--lr-d"),
    "Real images are not told by their text: match_real is -2.76, by chance -2.77": ({"match_real": -2.76}, "--itd"),
    "Generated images are not told": ({"match_fake": -2.76}, "--itd"),
}


@pytest.mark.parametrize("sign", [None, *WRONG_OF_LAFITE])
def test_lafites_own_terms_are_watched(sign: str | None) -> None:
    """R1 is measured every 16 steps."""
    settings = TrainSettings.of(dataset="demo", variant="lafite", steps=2000, batch_size=16, r1_gamma=5.0, itd=2.0)
    metrics, (values, option) = Metrics(), WRONG_OF_LAFITE[sign] if sign else ({}, "")
    for step in range(1, 1301):
        r1 = {"r1": 0.1} if step % 16 == 1 else {}
        due = step > 1000 and ("r1" not in values or step % 16 == 1)
        metrics.take({"step": step, **LAFITE, **r1, **(values if due else {})})
    lines = advice(metrics, settings)
    if sign is None:
        assert lines == []
        return
    (line,) = lines
    assert sign in line
    assert option in line
    assert {f"--{name.replace('_', '-')}" for name in all_settings()} >= set(re.findall(r"--[a-z-]+", line))


def test_lafites_own_terms_have_their_charts(run: Path) -> None:
    lines = [{"step": step, **LAFITE, "match_clip": -2.0, "r1": 0.1, "path_length": 1.0} for step in range(13, 20)]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    (curves,) = [one for one in page_of(ReportRequest(str(run))).sections if one.title == "Curves"]
    shown = {one.title: one.table.columns[1:] for one in curves.charts}
    assert shown["Match of images and text"] == ["match_real", "match_fake", "match_clip"]
    assert (shown["R1"], shown["Path length"]) == (["r1"], ["path_length"])


def test_points_of_a_chart_are_means_within_their_bands() -> None:
    steps = list(range(5, 2005))
    values = np.random.default_rng(0).normal(size=len(steps)).tolist()
    shown = chart("t", "", [Curve("a", steps, values), Curve("b", [5, 1000, 2004], [1.0, 2.0, 3.0])]).spec["data"][
        "values"
    ]
    many = [row for row in shown if row["c"] == "c0"]
    assert len(many) <= POINTS
    width = -(-len(steps) // POINTS)
    for number, row in enumerate(many):
        part = values[number * width : (number + 1) * width]
        assert row["y"] == pytest.approx(np.mean(part), rel=1e-3, abs=1e-3)
        assert (row["lo"], row["hi"]) == (pytest.approx(min(part), rel=1e-3), pytest.approx(max(part), rel=1e-3))
    assert [row["y"] for row in shown if row["c"] == "c1"] == [1.0, 2.0, 3.0]


def test_points_stand_at_steps_that_there_are() -> None:
    """Sparse values at their own; a mean of several at the mean of their steps, or at the sparse value's among them."""
    steps, evaluated = list(range(1, 5001)), list(range(250, 5001, 250))
    rows = chart(
        "t", "", [Curve("a", steps, [0.5] * 5000), Curve("b", evaluated, [float(step) for step in evaluated])]
    ).spec["data"]["values"]
    assert [(row["x"], row["y"]) for row in rows if row["c"] == "c1"] == [(step, float(step)) for step in evaluated]
    dense = [row["x"] for row in rows if row["c"] == "c0"]
    assert len(dense) <= POINTS
    width = -(-5000 // POINTS)
    for number, x in enumerate(dense):
        within = range(number * width + 1, min(5000, (number + 1) * width) + 1)
        sparse = [step for step in evaluated if step in within]
        assert x in (sparse or {round(np.mean(within) - 0.1), round(np.mean(within) + 0.1)})
    irregular = sorted({*range(1, 200), *range(4000, 4100), 4999})
    rows = chart("t", "", [Curve("a", steps, [0.5] * 5000), Curve("b", irregular, [1.0] * 300)]).spec["data"]["values"]
    assert [row["x"] for row in rows if row["c"] == "c1"] == irregular


def filled(shown: Sequence[Curve], runs: bool = False) -> list[list[str]]:
    """The cells of each column of a chart's table of values."""
    return [list(column) for column in zip(*chart("t", "", shown, runs=runs).table.rows, strict=True)]


def test_a_table_of_values_has_those_of_sparse_curves() -> None:
    steps = list(range(1, 5759))
    evaluated = [1, *range(250, 5751, 250)]
    at, dense, sparse = filled([Curve("a", steps, [0.5] * 5758), Curve("b", evaluated, [0.25] * 24)])
    assert dense == ["0.5"] * 9
    assert sparse == ["0.25"] * 9
    assert {int(cell.replace(",", "")) for cell in at} <= {*evaluated}
    # Runs: one that ended early decides no steps, and one with a single value has it in the table.
    columns = filled(
        [Curve("a", steps, [0.5] * 5758), Curve("b", [1, 10], [0.25, 0.3]), Curve("c", [777], [9.0])], runs=True
    )
    assert columns[0][-1] == "5,758" or int(columns[0][-1].replace(",", "")) > 5700
    assert columns[1].count("") == 0
    assert columns[2].count("") > 5
    assert columns[3].count("9") == 1
    assert filled([Curve("a", [5], [1.0]), Curve("b", [9], [2.0])]) == [["5", "9"], ["1", ""], ["", "2"]]


def test_metrics_are_read_as_they_lie_there(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "a": 1, "b": true, "c": "x", "d": NaN}',
        "nonsense",
        '{"a": 2}',
        '{"step": 2, "a": 1e999}',
        '{"st',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    metrics = read_metrics(tmp_path)
    assert (metrics.last_step, metrics.names, metrics.values("a")) == (2, ["a"], [1.0])


def test_what_cannot_be_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ratlip("report", "runs/frist").code == 2
    with pytest.raises(UsageError, match="does not hold scores"):
        page_of(ReportRequest(str(run), scores=[run / "config.toml"]))
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    from ratlip_cli.web.report import charts_library

    charts_library.cache_clear()
    missing = ratlip("report", run)
    assert (missing.code, "pip install 'ratlip[report]'" in missing.err) == (1, True)
    for out in (run / "config.toml", ".", "..", "/", ""):
        named = ratlip("report", run, "--out", out)
        assert (named.code, "whose name ends in .html, such as report.html" in named.err) == (2, True), named.err
    empty = ratlip("report", "")
    assert (empty.code, "a name is empty" in empty.err) == (2, True), empty.err


@pytest.fixture(scope="module")
def written(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs and of the first of them: report.html and sweep.html in a folder."""
    pytest.importorskip("vl_convert", reason="vl-convert is missing: pip install 'ratlip[report]'")
    folder = tmp_path_factory.mktemp("reports")
    run = Path(shutil.copytree(finished, folder / "runs" / "first"))
    shutil.copytree(finished, run.parent / 'sec"ond<b>')
    for subject, name in ((run, "report.html"), (run.parent, "sweep.html")):
        answer = ratlip("report", subject, "--out", folder / name, "-q")
        assert (answer.code, answer.out) == (0, f"{folder / name}\n"), answer.err
        assert (folder / name).stat().st_size < LARGEST
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "sweep.html"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_network(
    written: Path, visit: Callable[..., Visit], name: str, width: int, dark: bool
) -> None:
    seen = visit((written / name).as_uri(), width, dark=dark, offline=True)
    plots = seen.page.locator(".plot")
    seen.page.wait_for_function(
        "document.querySelectorAll('.plot svg').length === document.querySelectorAll('.plot').length"
    )
    assert plots.count() >= 9
    assert seen.errors == []
    assert [address for address in seen.requests if not address.startswith("data:")] == [(written / name).as_uri()]
    assert seen.too_wide == 0
    for plot in plots.all():
        assert plot.locator("svg").bounding_box()["width"] <= plot.bounding_box()["width"] + 1
    back, text = seen.page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(map(int, re.findall(r"\d+", back))) < sum(map(int, re.findall(r"\d+", text)))) == dark


def told_in_the_middle_of_the_losses(page: Any) -> str:
    """What hovering shows of the losses half-way through the steps."""
    plot = page.locator(".card", has=page.get_by_role("heading", name="Losses")).locator(".plot")
    plot.locator("svg").wait_for()
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + 102)
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for()
    return str(tooltip.inner_text())


@pytest.mark.slow
def test_hovering_says_so_where_a_curve_has_no_value(
    written: Path, tmp_path: Path, visit: Callable[..., Visit]
) -> None:
    run = Path(shutil.copytree(written / "runs/first", tmp_path / "run"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines[4:9]:
        line["loss_g"] = None  # as of a step that was not finite
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = ratlip("report", run, "--out", tmp_path / "report.html", "-q")
    assert answer.code == 0, answer.err
    told = told_in_the_middle_of_the_losses(visit((tmp_path / "report.html").as_uri()).page)
    assert "NaN" not in told
    assert re.search(r"loss_g\s+no value", told), told


@pytest.mark.slow
def test_values_on_hovering_and_a_slider_through_the_grids(written: Path, visit: Callable[..., Visit]) -> None:
    seen = visit((written / "report.html").as_uri())
    page = seen.page
    shown = page.locator(".slides img:visible")
    assert shown.get_attribute("data-title") == "step 12"
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert shown.get_attribute("data-title") == page.locator(".slides output").inner_text() == "step 6"
    cells = dict(zip(*(iter(told_in_the_middle_of_the_losses(page).split()),) * 2, strict=True))
    record = json.loads((written / "runs/first/metrics.jsonl").read_text().splitlines()[int(cells["step"]) - 1])
    for name in ("loss_d", "loss_g"):
        assert float(cells[name].replace("\u2212", "-")) == pytest.approx(record[name], rel=1e-3)
    assert seen.errors == []


@pytest.mark.slow
def test_a_report_of_very_many_images_stays_small(written: Path, tmp_path: Path) -> None:
    """Sixty grids of noise, which no codec makes small, and ten thousand steps."""
    from PIL import Image

    run = Path(shutil.copytree(written / "runs/first", tmp_path / "run"))
    rng = np.random.default_rng(0)
    for step in range(60):
        grid = Image.fromarray(rng.integers(0, 256, (600, 600, 3), dtype=np.uint8))
        grid.save(run / "samples" / f"step_{step:08d}.png")
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    with (run / "metrics.jsonl").open("a") as lines:
        for step in range(13, 10_000):
            lines.write(json.dumps(record | {"step": step, "loss_d": float(rng.normal())}) + "\n")
    answer = ratlip("report", run, "--out", tmp_path / "large.html", "-q")
    assert answer.code == 0, answer.err
    assert 1_000_000 < (tmp_path / "large.html").stat().st_size < LARGEST
