"""The recorded scores of the demo's models beside their goals; exit code 3 where a row is missed.

    python examples/demo/check_scores.py                                  # examples/demo/scores.json, as a table
    python examples/demo/check_scores.py --page docs/bundled-model.md     # also puts the table into the page

`score.py` records them. Models of several training seeds stand side by side, and have to agree in the attributes that
have a goal; entropies and Fréchet distances of two seeds are not compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import script

from ratlip_cli.errors import UsageError
from ratlip_cli.files import write_text

SCORES = Path(__file__).with_name("scores.json")
GOALS = {
    "test": {
        "bird body": 0.98,
        "bird wings": 0.95,
        "bird facing": 0.96,
        "bird belly": 0.75,
        "bird beak": 0.75,
        "flower petals": 0.99,
        "flower centre": 0.98,
        "flower petal_count": 0.75,
        "flower leaves": 0.75,
        "face hair": 0.98,
        "face hat": 0.97,
        "face glasses": 0.97,
    },
    "unseen": {"bird body": 0.92, "bird wings": 0.85, "flower petals": 0.95, "flower centre": 0.90},
}
"""Split -> attribute -> the least share of the captions stating it whose image shows it."""
ENTROPY_GOAL, MEAN_ENTROPY_GOAL, FRECHET_GOAL = 0.6, 0.85, 3.0
ALIKE_WITHIN = 0.02
"""How far apart the shares of two training seeds may be."""
DIGITS = 4
"""Of a share, as `score.py` rounds it."""
BEGIN, END = "<!-- scores -->\n", "<!-- end of scores -->\n"


@dataclass(frozen=True)
class Row:
    """One measure, of every model."""

    name: str
    values: list[float]
    goal: float | None = None
    real: float | None = None  # Of real images.
    chance: float | None = None  # Of real images whose captions were dealt out anew.
    share: bool = True  # A share of captions, told in per cent.
    at_most: bool = False  # The goal is an upper bound.

    @property
    def missed(self) -> bool:
        """Whether a model falls short of the goal, as one does that has no number."""
        if self.goal is None:
            return False
        return not all(value <= self.goal if self.at_most else value >= self.goal for value in self.values)

    @property
    def apart(self) -> bool:
        """Whether the models differ by more than two training seeds may."""
        difference = round(max(self.values) - min(self.values), DIGITS)
        return self.share and self.goal is not None and difference > ALIKE_WITHIN

    def cells(self) -> list[str]:
        """Name, goal, a value for each model, real and chance, as text."""
        bound = "at most " if self.at_most else ""
        numbers = [self._told(value) for value in self.values]
        goal = "" if self.goal is None else bound + (f"{self.goal:.0%}" if self.share else f"{self.goal:g}")
        return [self.name, goal, *numbers, self._told(self.real), self._told(self.chance)]

    def _told(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return ""
        return f"{value:.1%}" if self.share else f"{value:.2f}"


def rows(scores: dict[str, Any]) -> list[Row]:
    """Every measure; those with a goal come first."""
    models = scores["models"]
    with_goal, others = [], []
    for split, goals in GOALS.items():
        for name in [*goals, *(name for name in models[0][split] if name not in goals)]:
            told = [model[split].get(name, {}) for model in models]  # nothing of what no caption states
            values = [one.get("model", math.nan) for one in told]
            row = Row(f"{split}: {name}", values, goals.get(name), told[0].get("real"), told[0].get("chance"))
            (with_goal if name in goals else others).append(row)
    ratios = [[ratio for row in model["diversity"] for ratio in row["entropy_ratio"].values()] for model in models]
    entropies = [
        Row(f"lowest of {len(ratios[0])} entropies", [min(own) for own in ratios], ENTROPY_GOAL, share=False),
        Row("mean of them", [round(sum(own) / len(own), DIGITS) for own in ratios], MEAN_ENTROPY_GOAL, share=False),
    ]
    distances = [model["frechet"]["ratio"] for model in models]
    distance = Row("Fréchet distance, times that of real halves", distances, FRECHET_GOAL, share=False, at_most=True)
    return [*with_goal, *entropies, distance, *others]


def missed(scores: dict[str, Any]) -> list[str]:
    """What the models fall short of, and where they differ too much."""
    found = rows(scores)
    apart = [f"{row.name} differs between the seeds" for row in found if row.apart]
    return [row.name for row in found if row.missed] + low_entropies(scores) + apart


def low_entropies(scores: dict[str, Any]) -> list[str]:
    """The entropies below their goal, each in a line."""
    return [
        f"entropy {ratio} of {name} for '{row['caption']}', seed {model['training_seed']}"
        for model in scores["models"]
        for row in model["diversity"]
        for name, ratio in row["entropy_ratio"].items()
        if not ratio >= ENTROPY_GOAL
    ]


def headings(scores: dict[str, Any]) -> list[str]:
    """Of the columns of `Row.cells`."""
    return ["", "goal", *(f"seed {model['training_seed']}" for model in scores["models"]), "real", "chance"]


def table(scores: dict[str, Any]) -> str:
    """Every row, for a terminal; what is missed has a mark."""
    cells = [[*headings(scores), ""], *([*row.cells(), "missed" if row.missed else ""] for row in rows(scores))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        " ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(scores: dict[str, Any]) -> str:
    """The rows with a goal as a table for a page, those missed in bold, and the entropies that are low."""
    heads = headings(scores)
    lines = [heads, ["---"] * len(heads)]
    for row in rows(scores):
        if row.goal is not None:
            name, *others = row.cells()
            lines.append([f"**{name}**" if row.missed else name, *others])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if len(scores["models"]) > 1:
        text += (
            f"\nThe seeds have to agree within {ALIKE_WITHIN:.0%} in the attributes; the other rows are not compared.\n"
        )
    low = low_entropies(scores)
    return text + (f"\nBelow {ENTROPY_GOAL}:\n\n" if low else "") + "".join(f"- {line}\n" for line in low)


def put_into(page: Path, scores: dict[str, Any]) -> None:
    """Replace what stands between the marks of a page. Raises UsageError where it has not each once, in order."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if (text.count(BEGIN), text.count(END), rest.count(END)) != (1, 1, 1):
        marks = " and then ".join(mark.strip() for mark in (BEGIN, END))
        raise UsageError(f"{page} must have {marks} once each, in a line of its own: the table goes between them.")
    write_text(page, before + BEGIN + "\n" + markdown(scores) + "\n" + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="?", default=SCORES)
    parser.add_argument("--page", type=Path, help="a page of docs/ that holds the table between its marks")
    args = parser.parse_args()
    try:
        scores = json.loads(args.scores.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{args.scores} is no JSON: {error}.") from error
    if args.page:
        put_into(args.page, scores)
    print(table(scores))
    short = missed(scores)
    print("\n".join(["missed:", *(f"  {name}" for name in short)]) if short else "every goal is met")
    sys.exit(3 if short else 0)


if __name__ == "__main__":
    script.run(main)
