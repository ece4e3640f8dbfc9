"""A comparison as text: Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields

from ratlip_cli.experiments.compare import Cell, Row, Table, protocol_of
from ratlip_cli.experiments.ledger import BETTER, shown_name
from ratlip_cli.experiments.statistics import Comparison, Estimate

HEADINGS = ("seeds", "mean ± sd", "95 % interval", "difference", "95 % interval", "p (Holm)", "verdict")

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$"}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {letter: f"${letter}$" for letter in "<>|"}


def markdown(table: Table) -> str:
    """A table for each metric, and the notes."""
    blocks = []
    for metric in table.metrics:
        headings, rows = _texts(table, metric)
        lines = [_bar(headings), _bar(["---"] + ["---:"] * (len(headings) - 2) + ["---"]), *map(_bar, rows)]
        blocks.append(f"{_title(table, metric)}\n\n" + "\n".join(lines))
    if table.notes:
        blocks.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def latex(table: Table) -> str:
    """A `tabular` for each metric, without packages; the notes are comments."""
    blocks = []
    for metric in table.metrics:
        headings, rows = _texts(table, metric)
        lines = [_ampersands(headings), r"\hline", *map(_ampersands, rows)]
        columns = "l" + "r" * (len(headings) - 2) + "l"
        body = "\n".join(lines)
        blocks.append(f"% {_title(table, metric)}\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}")
    blocks += [f"% {note}" for note in table.notes]
    return "\n\n".join(blocks) + "\n"


def as_csv(table: Table) -> str:
    """A line for each row and metric, every number in full."""
    records = list(_records(table))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_json(table: Table) -> str:
    """One object: rows with their runs, cells and notes."""
    content = {
        "rows": [_row_record(row) for row in table.rows],
        "cells": list(_records(table)),
        "notes": list(table.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Table], str]] = {"md": markdown, "latex": latex, "csv": as_csv, "json": as_json}


def interval(estimate: Estimate) -> str:
    """`[low, high]`, or `-` where one seed says nothing of others."""
    if estimate.low is None or estimate.high is None:
        return "-"
    places = _decimals(estimate)
    return f"[{estimate.low:.{places}f}, {estimate.high:.{places}f}]"


def mean(estimate: Estimate) -> str:
    """The mean with as many digits as its interval bears: two of its half width."""
    return f"{estimate.mean:.{_decimals(estimate)}f}"


def _decimals(estimate: Estimate) -> int:
    if estimate.low is None or estimate.high is None or estimate.high <= estimate.low:
        return 4
    return max(0, 1 - math.floor(math.log10((estimate.high - estimate.low) / 2)))


def _title(table: Table, metric: str) -> str:
    protocol, higher = protocol_of(table.rows), BETTER.get(metric)
    images = protocol.get("images")
    of_images = "" if images is None else f" of {images:,} images"
    better = "" if higher is None else f" ({'higher' if higher else 'lower'} is better)"
    return f"{shown_name(metric, protocol)}{of_images}{better}"


def _texts(table: Table, metric: str) -> tuple[list[str], list[list[str]]]:
    """The headings and the rows of one metric; a column for what a paper prints where it prints something."""
    cells = [table.cells.get((row.name, metric)) for row in table.rows]
    printed = any(cell is not None and cell.printed is not None for cell in cells)
    headings = ["row", *(["printed"] if printed else []), *HEADINGS]
    rows = []
    for row, cell in zip(table.rows, cells, strict=True):
        beside = ["-" if cell is None or cell.printed is None else f"{cell.printed:g}"] if printed else []
        rows.append([row.name, *beside, *_cell_texts(row, cell)])
    return headings, rows


def _cell_texts(row: Row, cell: Cell | None) -> list[str]:
    if cell is None:
        return ["0", *["-"] * 5, _no_scores(row)]
    own = cell.estimate
    spread = f" ± {own.sd:.{_decimals(own)}f}" if own.sd is not None else ""
    texts = [str(own.seeds), mean(own) + spread, interval(own)]
    if cell.comparison is None:
        return [*texts, "-", "-", "-", "-"]
    return [*texts, *_comparison_texts(cell.comparison)]


def _no_scores(row: Row) -> str:
    return "not scored" if row.runs else "no scores"


def _comparison_texts(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    if not difference.seeds:
        return ["-", "-", "-", comparison.verdict]
    p = "-" if comparison.p is None else "< 0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}"
    sign = "+" if difference.mean > 0 else ""
    return [sign + mean(difference), interval(difference), p, comparison.verdict]


def _records(table: Table) -> Iterator[dict[str, object]]:
    protocol = protocol_of(table.rows)
    for metric in table.metrics:
        for row in table.rows:
            cell = table.cells.get((row.name, metric))
            own = dict.fromkeys(field.name for field in fields(Estimate)) | {"seeds": 0, "images": 0}
            own |= {} if cell is None else asdict(cell.estimate)
            comparison = None if cell is None else cell.comparison
            difference = comparison.difference if comparison and comparison.difference.seeds else None
            yield {
                "metric": metric,
                "row": row.name,
                **own,
                "difference": difference and difference.mean,
                "difference_low": difference and difference.low,
                "difference_high": difference and difference.high,
                "difference_seeds": comparison and comparison.difference.seeds,
                "p_holm": comparison and comparison.p,
                "verdict": _no_scores(row) if cell is None else comparison and comparison.verdict,
                "printed": cell and cell.printed,
                "shown_as": shown_name(metric, protocol),
                "images_scored": protocol.get("images"),
            }


def _row_record(row: Row) -> dict[str, object]:
    return {
        "row": row.name,
        "runs": [str(run.path) for run in row.runs],
        "seeds": [run.entry.seed for run in row.runs],
        "images_shown": row.images_shown,
        "left_out": list(row.left_out),
    }


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"
