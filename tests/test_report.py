"""`ratlip report`: what the page says, that nothing in it runs or loads but its own, and how it looks in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from command_line import ratlip
from test_cli_train import options

from ratlip_cli.errors import UsageError
from ratlip_cli.files import locked
from ratlip_cli.training.settings import TrainSettings, all_settings
from ratlip_cli.web.advice import advice
from ratlip_cli.web.charts import POINTS, Curve, chart
from ratlip_cli.web.records import Metrics, read_metrics
from ratlip_cli.web.report import LARGEST, Page, ReportRequest, _rendered, page_of

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
    settings = tiny_settings.replaced(out=str(folder), similarity_weight=1.5)
    answer = ratlip("train", *options(settings), "--steps", "12", "--sample-every", "3", *scored, "-q")
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


@pytest.mark.slow
def test_a_model_is_told_and_generates_its_samples(run: Path) -> None:
    model = run / "best"
    (model / "samples.png").unlink(missing_ok=True)
    page = page_of(ReportRequest(str(model)))
    facts = dict(page.facts)
    assert (page.kind, facts["Licence"], facts["Model"]) == ("model", "CC0", "ratlip, 32 x 32 pixels")
    assert [one.title for one in page.sections] == ["Samples", "Scores", "Modules", "Training"]
    assert dict(tables(page, "Training"))["batch_size"] == "4"
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
    named = ratlip("report", run, "--out", run / "config.toml")
    assert (named.code, "name it config.html" in named.err) == (2, True)


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
    plot = page.locator(".card", has=page.get_by_role("heading", name="Losses")).locator(".plot")
    plot.locator("svg").wait_for()
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + 102)
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for()
    cells = dict(zip(*(iter(tooltip.inner_text().split()),) * 2, strict=True))
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
