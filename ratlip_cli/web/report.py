"""One HTML file of a run, a sweep or a model: it needs no network, no other file, and is below 5 MB.

Everything that comes from files is data to the page: Jinja escapes it, and charts get it as JSON.
"""

from __future__ import annotations

import base64
import datetime
import functools
import io
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

import ratlip_cli
from ratlip_cli.data.images import ImageError, read_image
from ratlip_cli.errors import RatlipError, UsageError
from ratlip_cli.experiments.ledger import LEDGER_FILE
from ratlip_cli.files import write_text
from ratlip_cli.grids import captioned_grid
from ratlip_cli.progress import Progress, silent
from ratlip_cli.sampling import generate
from ratlip_cli.setting import RUNS
from ratlip_cli.training.run_folder import ENVIRONMENT_FILE
from ratlip_cli.training.runs import RunSummary, runs_in
from ratlip_cli.training.settings import TrainSettings, all_settings, by_present_names, settings_of_run
from ratlip_cli.web.advice import advice
from ratlip_cli.web.charts import COLOURS, DASHES, Chart, Curve, Table, chart
from ratlip_cli.web.records import (
    Figure,
    Metrics,
    ScoreRow,
    environment_rows,
    figures_of,
    preset_of,
    read_metrics,
    read_object,
    said,
    score_rows,
    shown_metric,
    shown_value,
)
from ratlip_cli.web.sweeps import entries_of, environment_table, scores_table, settings_table, state_of
from ratlip_cli.weights.load import locate_model
from ratlip_cli.weights.model_folder import CONFIG_FILE, SAMPLES_FILE, fingerprint_of, load_folder, read_model_config

LARGEST = 5_000_000
"""Bytes that a report stays below."""

SLIDES_BYTES, FIGURES_BYTES = 1_400_000, 900_000
"""Bytes of WebP, of which base64 makes a third more; the charts' library takes 0.9 MB."""

MOST_SLIDES, MOST_FIGURES = 40, 16

MOST_CURVES = len(COLOURS) * len(DASHES)
"""Runs in a chart: so many curves can be told apart."""

MOST_ROWS, MOST_COLUMNS, LONGEST_CELL = 400, 20, 300
"""Of tables, where all of them would make the page too large."""

FIGURE_FOLDERS = ("gradcam", "latent")
"""Where `ratlip gradcam` and `ratlip latent-viz` write if nobody says where."""

MODEL_FOLDERS = ("model", "best")
"""Where a run folder has its models."""

GROUPS = (
    ("Losses", ("loss_d", "loss_g"), "Of discriminator and generator; they need not fall, but should not run away."),
    (
        "Logits of the discriminator",
        ("logit_real", "logit_mismatched", "logit_fake"),
        "Of real images with their captions, real images with others' captions, and generated images. Real above "
        "mismatched means that the discriminator reads the text.",
    ),
    ("Gradient penalty", ("penalty_norm", "penalty"), "The norm that the penalty raises to its power."),
    ("R1", ("r1",), "The square of the norm of the discriminator's gradient by real images."),
    (
        "Match of images and text",
        ("match_real", "match_fake", "match_clip"),
        "The logarithm of how surely a batch's images are told by their text: 0 at best, by chance minus the logarithm "
        "of their number. By the discriminator of real and generated images, and by CLIP of generated ones.",
    ),
    ("Path length", ("path_length",), "How far images move with w, which the generator keeps even."),
    (
        "CLIP similarity",
        ("clip_similarity", "clip_similarity_real"),
        "Of generated images and their captions; real images' is what it should come near, and not exceed.",
    ),
    (
        "Contrastive term",
        ("contrastive",),
        "How surely CLIP tells a generated image's caption from wrong ones, as -log p: 0 at best.",
    ),
    (
        "Variety of the samples",
        ("variety_noise", "variety_captions"),
        "Mean of 1 - cos for CLIP: under one caption, and of different captions. A fall is a collapse.",
    ),
    ("Learning rates", ("lr_g", "lr_d"), ""),
    ("Passed over", ("failed_images", "failed_shards"), "Images and shards of a stream that could not be used."),
    ("Speed", ("images_per_second",), "Training images a second."),
    ("Memory", ("memory_mib",), "Peak so far in MiB."),
)
"""Charts of a run: title, curves, what to look for."""

ABOUT_CURVES = (
    "Where there are many steps, a point is the mean of several, over a band from their least to their largest value."
)

_GRID = re.compile(r"step_[0-9]+\.png")

OVERLAID = ("loss_d", "loss_g", "logit_real", "logit_mismatched", "logit_fake", "penalty_norm", "clip_similarity")
OVERLAID_TOO = ("r1", "match_real", "match_fake", "variety_noise", "variety_captions")
"""Curves of which several runs are shown over each other."""


@dataclass(frozen=True)
class ReportRequest:
    """What to report on, and what lies elsewhere of it."""

    subject: str  # Run folder, sweep folder, or a model as `load_model` takes it.
    scores: Sequence[Path] = ()  # What `ratlip evaluate --out` wrote.
    figures: Sequence[Path] = ()  # Folders of `ratlip gradcam` and `ratlip latent-viz`; all in them is shown.


@dataclass(frozen=True)
class Shown:
    """An image in the page."""

    title: str
    uri: str
    says: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page under its own heading."""

    title: str
    about: str = ""
    tables: Sequence[Table] = ()
    folded: Sequence[tuple[str, Table]] = ()  # Shown on a click, under these words.
    charts: Sequence[Chart] = ()
    slides: Sequence[Shown] = ()  # One at a time, by a slider.
    images: Sequence[Shown] = ()


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    kind: str  # "run", "sweep" or "model".
    title: str
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default=())  # What makes the page less than it could be.
    made: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    )
    version: str = ratlip_cli.__version__

    @property
    def charts(self) -> list[dict[str, Any]]:
        """The specs of all charts, in the order of the page."""
        return [chart.spec for section in self.sections for chart in section.charts]


def newest_subject() -> str:
    """The run in ./runs that was written to last, else the bundled model."""
    runs = runs_in(RUNS) if RUNS.is_dir() else []
    return str(runs[-1].run) if runs else "ratlip-demo"


def report(request: ReportRequest, out: Path, progress: Progress = silent) -> Page:
    """Write the report of a run, a sweep or a model to the HTML file `out`, which is replaced where it exists.

    Raises:
        UsageError: `out` is not named .html. RatlipError: there is no such run, sweep or model, the file cannot be
        written, or the extra `report` is missing.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out} is to be an HTML file, whose name ends in .html, such as report.html.")
    library = charts_library()
    for page in _smaller_and_smaller(page_of(request, progress)):
        html = _rendered(page, library)
        if len(html.encode("utf-8", "backslashreplace")) < LARGEST:
            write_text(out, html)
            return page
    raise RatlipError(f"the report of {request.subject} would be larger than {LARGEST:,} bytes: its records are.")


def _smaller_and_smaller(page: Page) -> Iterator[Page]:
    """The page, then with less and less in it, and a note of what that is."""
    yield page
    page = _without(page, "The images would make this file too large.", slides=(), images=())
    yield page
    page = _without(page, "The charts would make this file too large.", charts=())
    yield page
    what = f"Tables are cut to {MOST_ROWS} rows and {MOST_COLUMNS} columns, texts to {LONGEST_CELL} letters."
    sections = [
        replace(
            one,
            tables=[_cut(table) for table in one.tables],
            folded=[(title, _cut(table)) for title, table in one.folded],
        )
        for one in page.sections
    ]
    warnings = [line[:LONGEST_CELL] for line in page.warnings[:MOST_ROWS]]
    facts = [(name, value[:LONGEST_CELL]) for name, value in page.facts]
    yield replace(page, sections=sections, warnings=warnings, facts=facts, notes=[*page.notes, what])


def _without(page: Page, why: str, **nothing: Any) -> Page:
    return replace(page, sections=[replace(one, **nothing) for one in page.sections], notes=[*page.notes, why])


def _cut(table: Table) -> Table:
    cells = [[cell[:LONGEST_CELL] for cell in row[:MOST_COLUMNS]] for row in table.rows[:MOST_ROWS]]
    return replace(table, columns=[name[:LONGEST_CELL] for name in table.columns[:MOST_COLUMNS]], rows=cells)


def page_of(request: ReportRequest, progress: Progress = silent) -> Page:
    """What the report shows. Raises RatlipError where there is no such run, sweep or model."""
    folder = Path(request.subject)
    if folder.is_dir() and not (folder / CONFIG_FILE).is_file():
        if any((folder / name).is_file() for name in ("config.toml", "metrics.jsonl")):
            return _page_of_run(folder, request)
        if (folder / LEDGER_FILE).is_file() or runs_in(folder):
            return _page_of_sweep(folder, request)
    return _page_of_model(request, progress)


# A run


def _page_of_run(run: Path, request: ReportRequest) -> Page:
    (summary,) = runs_in(run)
    metrics = read_metrics(run)
    settings = _settings(run)
    warnings = _warnings(summary, metrics, settings)
    notes = ["No score yet: --eval-every scores the model while it trains, `ratlip evaluate` at any time."]
    scores = _scores_of_run(run, metrics, request)
    own, unreadable = _own_fingerprints(run)
    warnings += [*unreadable, *_of_others(scores, own)]
    sections = [
        _samples(_grids(run)),
        _curves(metrics),
        _scores(scores),
        _explained(request, own, run),
        _settings_section(settings),
        _environment(run),
    ]
    return Page(
        kind="run",
        title=run.resolve().name,
        facts=_facts_of_run(summary, metrics, settings),
        warnings=warnings,
        sections=[section for section in sections if section is not None],
        notes=[] if scores else notes,
    )


def _warnings(summary: RunSummary, metrics: Metrics, settings: TrainSettings | None) -> list[str]:
    damage = [f"The run is damaged: {summary.problem}"] if summary.state == "damaged" else []
    return [*damage, *(advice(metrics, settings) if settings is not None else [])]


def _settings(run: Path) -> TrainSettings | None:
    """Its settings; None where they are damaged, which the run's summary says too."""
    try:
        return settings_of_run(run)
    except UsageError:
        return None


def _facts_of_run(summary: RunSummary, metrics: Metrics, settings: TrainSettings | None) -> list[tuple[str, str]]:
    total = "?" if summary.total_steps is None else f"{summary.total_steps:,}"
    state = {
        "running": "it trains now; make the report again to see more",
        "interrupted": f"interrupted; ratlip train --resume {shlex.quote(str(summary.run))} goes on",
    }.get(summary.state, summary.state)
    facts = [("State", state), ("Steps", f"{max(summary.steps, metrics.last_step):,} of {total}")]
    if settings is not None:
        size = f"{settings.image_size} x {settings.image_size} pixels"
        facts += [("Dataset", settings.dataset), ("Model", f"{settings.variant}, {size}"), ("CLIP", settings.clip)]
    return facts


def _curves(metrics: Metrics) -> Section | None:
    charts, shown = [], set[str]()
    for title, names, about in GROUPS:
        charts += _chart(title, about, metrics, names)
        shown |= {*names}
    for name in metrics.names:
        if name not in shown and name not in metrics.scores:
            charts += _chart(name, "", metrics, (name,))
    scores = [one for name in metrics.scores for one in _chart(name, "On the test split.", metrics, (name,))]
    return Section("Curves", ABOUT_CURVES, charts=[*scores, *charts]) if charts or scores else None


def _chart(title: str, about: str, metrics: Metrics, names: Iterable[str]) -> list[Chart]:
    curves = [Curve(name, metrics.steps(name), metrics.values(name)) for name in names if metrics.steps(name)]
    return [chart(title, about, curves)] if curves else []


def _scores_of_run(run: Path, metrics: Metrics, request: ReportRequest) -> list[ScoreRow]:
    rows = [row for path in request.scores for row in _given_scores(path)]
    for path in sorted(run.glob("*.json")):
        rows += score_rows(read_object(path), path.name)
    rows += score_rows(read_object(run / "best" / "evaluation.json"), "best/evaluation.json")
    for step, fingerprint in metrics.evaluations[-1:]:
        last = [(name, metrics.values(name)[-1]) for name in metrics.scores if metrics.steps(name)[-1] == step]
        source = f"metrics.jsonl, step {step}"
        rows += [ScoreRow(source, name, shown_value(value), fingerprint=fingerprint) for name, value in last]
    return rows


def _of_others(rows: Sequence[ScoreRow], own: set[str]) -> list[str]:
    """A warning for each file whose scores are of other models than those of these fingerprints."""
    others = {(row.source, row.model): None for row in rows if row.model and row.model not in own}
    return [
        f"The scores in {source} are of model {model}, which is not here, or no longer." for source, model in others
    ]


def _given_scores(path: Path) -> list[ScoreRow]:
    rows = score_rows(read_object(path), path.name)
    if not rows:
        raise UsageError(f"--scores {path} does not hold scores, as `ratlip evaluate --out` writes them.")
    return rows


def _scores(rows: Sequence[ScoreRow], title: str = "Scores") -> Section | None:
    if not rows:
        return None
    names = ("metric", "value", "95 % interval", "network", "images", "protocol", "fingerprint", "from")
    cells = [
        (one.metric, one.value, one.interval, one.network, one.counts, one.protocol, one.fingerprint, one.source)
        for one in rows
    ]
    about = (
        "Scores can be compared where protocol and counts are the same; the fingerprint is over all that decides them."
    )
    return Section(title, about, tables=[_table(names, cells)])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without the columns that are empty in all rows."""
    kept = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    return Table([columns[place] for place in kept], [[row[place] for place in kept] for row in rows])


def _samples(grids: Sequence[Path], title: str = "Samples") -> Section | None:
    if not grids:
        return None
    count = min(MOST_SLIDES, len(grids))
    chosen = [grids[place * (len(grids) - 1) // max(1, count - 1)] for place in range(count)]
    slides = _embedded([(f"step {_step_of_grid(path):,}", path, ()) for path in chosen], SLIDES_BYTES)
    about = "The same prompts and the same noise vectors every time." + _part(slides, len(grids), "grids")
    return Section(title, about, slides=slides) if slides else None


def _part(shown: Sequence[Shown], total: int, what: str) -> str:
    """Says how many of all images are shown; empty where all are."""
    return f" {len(shown)} of {total} {what} are shown." if len(shown) < total else ""


def _grids(run: Path) -> list[Path]:
    """Its grids of samples, by their steps; files of other names, such as copies, are none of the run's."""
    found = [path for path in (run / "samples").glob("step_*.png") if _GRID.fullmatch(path.name)]
    return sorted(found, key=_step_of_grid)


def _step_of_grid(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _own_fingerprints(run: Path) -> tuple[set[str], list[str]]:
    """Those of the models in a run folder, and a warning for each that cannot be read."""
    found, problems = set[str](), []
    for folder in (run / name for name in MODEL_FOLDERS):
        if not (folder / CONFIG_FILE).is_file():
            continue
        try:
            found.add(fingerprint_of(folder))
        except RatlipError as error:
            problems.append(f"The model in {folder.name}/ cannot be read, and figures of it are not found: {error}")
    return found, problems


def _given_figures(folder: Path) -> list[Figure]:
    figures = figures_of(folder, None)
    if not figures:
        raise UsageError(f"--figures {folder} holds none, as `ratlip gradcam` and `ratlip latent-viz` write them.")
    return figures


def _explained(request: ReportRequest, own: set[str], within: Path | None) -> Section | None:
    """The figures in the folders given, then those of the models in the folder `within`, if any."""
    figures = [figure for folder in request.figures for figure in _given_figures(folder)]
    for place in () if within is None else (within, Path()):
        for name in FIGURE_FOLDERS:
            figures += figures_of(place / name, own, within)
    figures = list({figure.image.resolve(): figure for figure in figures}.values())
    if not figures:
        return None
    chosen = [(figure.title, figure.image, figure.says) for figure in figures[:MOST_FIGURES]]
    shown = _embedded(chosen, FIGURES_BYTES)
    about = "By `ratlip gradcam` and `ratlip latent-viz`." + _part(shown, len(figures), "figures")
    return Section("Grad-CAM and latent views", about, images=shown)


def _settings_section(settings: TrainSettings | None) -> Section | None:
    if settings is None:
        return None
    return _against_preset("Settings", settings.flat(), settings.dataset, settings.variant)


def _against_preset(title: str, settings: Mapping[str, object], dataset: str, variant: str) -> Section:
    """Settings by flat names, those first that are others than the preset's."""
    usual = preset_of(dataset, variant)
    known, others, same = all_settings(), list[list[str]](), list[list[str]]()
    for name, value in by_present_names(settings).items():
        if name in ("dataset", "variant", "out", "resume"):
            continue
        row = [name, said(value), said(usual.get(name)), known[name].about.text if name in known else ""]
        (same if value == usual.get(name) else others).append(row)
    columns = ("setting", "value", "preset", "meaning")
    what = f"what {dataset or 'a dataset'} and {variant} have without being told"
    about = f"The preset is {what}: the dataset's preset where there is one, else the defaults."
    tables = [Table(columns, others, marked=True)] if others else []
    if not others:
        about += " Nothing differs from it."
    return Section(title, about, tables=tables, folded=[(f"{len(same)} as in the preset", Table(columns, same))])


def _environment(run: Path) -> Section:
    rows = environment_rows(read_object(run / ENVIRONMENT_FILE))
    if not rows:
        return Section("Environment", "Not recorded: the run began with an earlier version of ratlip.")
    return Section("Environment", "Of the machine that trained last.", tables=[Table(("what", "version"), rows)])


# A sweep


def _page_of_sweep(folder: Path, request: ReportRequest) -> Page:
    runs = {one.run.name: one for one in runs_in(folder)}
    entries = entries_of(folder, runs)
    names = [*entries, *(name for name in runs if name not in entries)]
    metrics = {name: read_metrics(folder / name) for name in names if name in runs}
    warnings = []
    for name, own in metrics.items():
        warnings += [f"{name}: {line}" for line in _warnings(runs[name], own, _settings(folder / name))]
    last = {name: _grids(folder / name)[-1:] for name in runs}
    grids = [(f"{name}, {grid.stem.replace('_', ' ')}", grid, ()) for name, found in last.items() for grid in found]
    states = [state_of(entries.get(name), runs.get(name)) for name in names]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    newest, about = [*runs][-MOST_CURVES:], "The runs over each other."
    shown = [name for name in metrics if name in newest]
    if len(shown) < len(metrics):
        about += f" {len(shown)} of {len(metrics)} are shown, those that were written to last."
    slides = _embedded(grids[-MOST_SLIDES:], SLIDES_BYTES)  # of the runs that were written to last
    samples = Section("Samples", "The last grid of each run." + _part(slides, len(grids), "runs"), slides=slides)
    charts = _overlaid({name: metrics[name] for name in shown})
    return Page(
        kind="sweep" if entries else "runs",
        title=folder.resolve().name,
        facts=[("Runs", f"{len(names)}: {counts}")],
        warnings=warnings,
        sections=[
            Section("Runs", tables=[_runs_table(names, entries, runs, states)]),
            *([Section("Curves", about, charts=charts)] if charts else []),
            *([samples] if slides else []),
            *_told_of_sweep(names, entries, runs),
            *filter(None, [_scores([row for path in request.scores for row in _given_scores(path)], "Given scores")]),
            *filter(None, [_explained(request, set(), None)]),
        ],
    )


def _told_of_sweep(
    names: Sequence[str], entries: Mapping[str, Mapping[str, Any]], runs: Mapping[str, RunSummary]
) -> list[Section]:
    """Its scores, settings and environment, as far as they are recorded."""
    scores, settings = scores_table(entries), settings_table(names, entries, runs)
    environment = environment_table(names, entries, runs)
    sections = []
    if scores:
        sections.append(Section("Scores", scores[0], tables=[scores[1]]))
    if settings:
        about, table = settings
        sections.append(Section("Settings", about, tables=[table] if table.rows else []))
    about = "Of the machines that trained and scored." if environment else "Not recorded."
    return [*sections, Section("Environment", about, tables=[environment] if environment else [])]


def _runs_table(
    names: Sequence[str],
    entries: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, RunSummary],
    states: Sequence[str],
) -> Table:
    scores: dict[str, Mapping[str, Any]] = {}
    for name in names:
        entry, last = entries.get(name, {}), runs[name].scores if name in runs else None
        own = entry.get("scores")
        told = {shown_metric(metric, entry): score for metric, score in own.items()} if isinstance(own, dict) else {}
        scores[name] = told or last or {}
    metrics = list(dict.fromkeys(metric for own in scores.values() for metric in own))
    rows = [
        [
            name,
            str(entries.get(name, {}).get("row", "")),
            str(entries.get(name, {}).get("seed", "")),
            state,
            f"{runs[name].steps:,}" if name in runs else str(entries[name].get("steps", "")),
            *(_score(scores[name].get(metric)) for metric in metrics),
            str(entries.get(name, {}).get("reason") or (runs[name].problem if name in runs else "")),
        ]
        for name, state in zip(names, states, strict=True)
    ]
    return _table(("run", "row", "seed", "state", "steps", *metrics, "reason"), rows)


def _score(value: object) -> str:
    return shown_value(value) if isinstance(value, int | float) else ""


def _overlaid(metrics: Mapping[str, Metrics]) -> list[Chart]:
    scores = dict.fromkeys(name for own in metrics.values() for name in own.scores)
    charts = []
    for measured in (*scores, *OVERLAID, *OVERLAID_TOO):
        curves = [Curve(run, own.steps(measured), own.values(measured)) for run, own in metrics.items()]
        if curves := [curve for curve in curves if curve.steps]:
            charts.append(chart(measured, "", curves, runs=True))
    return charts


# A model


def _page_of_model(request: ReportRequest, progress: Progress) -> Page:
    name, folder = locate_model(request.subject)
    config, fingerprint = read_model_config(folder), fingerprint_of(folder)
    training = dict(config.training)
    data = training.get("data") if isinstance(training.get("data"), dict) else {}
    size = config.generator.image_size
    facts = [
        ("Fingerprint", fingerprint),
        ("Model", f"{config.generator.variant}, {size} x {size} pixels"),
        ("CLIP", f"{config.clip}, fingerprint {config.clip_fingerprint}"),
        *((str(key).capitalize(), said(value)) for key, value in (data or {}).items()),
    ]
    notes: list[str] = []
    try:
        samples = _samples_of_model(folder, training, progress)
    except RatlipError as error:
        samples = None
        notes.append(f"No images could be generated: {error}")
    scores = [row for path in request.scores for row in _given_scores(path)]
    scores += score_rows(read_object(folder / "evaluation.json"), "evaluation.json")
    recorded = training.get("settings") if isinstance(training.get("settings"), dict) else {}
    sections = [
        samples,
        _scores(scores),
        _explained(request, {fingerprint}, folder),
        _modules(folder),
        _against_preset("Training", recorded, str(training.get("dataset") or ""), config.generator.variant)
        if recorded
        else None,
        _environment_of_model(folder),
    ]
    kept = [section for section in sections if section is not None]
    return Page("model", name, facts, warnings=_of_others(scores, {fingerprint}), sections=kept, notes=notes)


def _environment_of_model(folder: Path) -> Section:
    """That of the run that it lies in, or of a copy that lies beside it."""
    own, version = folder.resolve(), read_object(folder / CONFIG_FILE).get("library_version")
    for place in (own, *([own.parent] if own.name in MODEL_FOLDERS else [])):
        if (place / ENVIRONMENT_FILE).is_file():
            return _environment(place)
    about = f"Not recorded: the model is in no run folder. ratlip {said(version)} wrote it."
    return Section("Environment", about, tables=[])


def _samples_of_model(folder: Path, training: Mapping[str, Any], progress: Progress) -> Section | None:
    if (folder / SAMPLES_FILE).is_file():
        shown = _embedded([("samples of training", folder / SAMPLES_FILE, ())], SLIDES_BYTES)
        return Section("Samples", images=shown)
    prompts = list(dict.fromkeys(str(prompt) for prompt in training.get("prompts") or []))[:4]
    if not prompts:
        return None
    rows: dict[str, list[Image.Image]] = {}
    progress("generate samples", 0, 4 * len(prompts), "images")  # images come in batches, which count from here
    for number, sample in enumerate(generate(load_folder(folder), prompts, count=4), 1):
        progress("generate samples", number, 4 * len(prompts), "images")
        rows.setdefault(sample.prompt, []).append(sample.image)
    grid = captioned_grid(list(rows.items()))
    about = "Four images of each of its prompts from training, seed 0."
    return Section("Samples", about, images=[Shown("generated for this report", _as_webp(grid))])


def _modules(folder: Path) -> Section:
    from ratlip_cli.summary import gflop_per_image, summarise
    from ratlip_cli.weights.clip_files import clip_architecture
    from ratlip_cli.weights.model_folder import clip_spec

    config = read_model_config(folder)
    modules = summarise(config.generator, config.discriminator, clip_architecture(clip_spec(folder, config)))
    rows = [
        [
            one.name,
            " x ".join(map(str, one.shape)) or "1",
            f"{one.trained:,}",
            f"{one.frozen:,}",
            f"{one.flops / 1e9:.2f}",
        ]
        for one in modules
    ]
    trained = sum(one.trained for one in modules)
    about = f"{trained:,} trained parameters; one image of a prompt takes {gflop_per_image(modules):.1f} GFLOP."
    return Section("Modules", about, tables=[Table(("module", "output", "trained", "frozen", "GFLOP/image"), rows)])


# The file


def _embedded(files: Sequence[tuple[str, Path, Sequence[str]]], budget: int) -> list[Shown]:
    """Image files in the page, as large and fine as `budget` bytes allow; what is no image is left out."""
    images = [(title, image, says) for title, path, says in files if (image := _opened(path)) is not None]
    shown: list[Shown] = []
    for width, quality in ((1600, 85), (1100, 80), (800, 75), (560, 70), (400, 60), (280, 50)):
        shown, left = [], budget * 4 // 3
        for title, image, says in images:
            uri = _as_webp(image, width, quality)
            left -= len(uri)
            if left < 0:
                break
            shown.append(Shown(title, uri, says))
        if len(shown) == len(images):
            break
    return shown


def _as_webp(image: Image.Image, width: int = 1600, quality: int = 85) -> str:
    """The address that holds the image itself."""
    small, content = image.copy(), io.BytesIO()
    small.thumbnail((width, 4 * width))
    small.save(content, "WEBP", quality=quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _opened(path: Path) -> Image.Image | None:
    try:
        return read_image(path)
    except ImageError:  # also one that is being written
        return None


@functools.cache
def charts_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. Raises RatlipError where the extra is missing."""
    try:
        import jinja2  # noqa: F401
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise RatlipError(
            f"reports need packages that are not installed ({error}): pip install 'ratlip[report]'."
        ) from error
    # A script ends where `</script` stands, also in a string of its own, in which `<\\/` is the same.
    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")


def _rendered(page: Page, library: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ratlip_cli.web", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(page=page, library=library)
