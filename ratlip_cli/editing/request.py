"""What can be asked of `edit`. Standard library only: the command line checks it before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ratlip_cli.errors import UsageError
from ratlip_cli.generation import check_request
from ratlip_cli.setting import check_device

if TYPE_CHECKING:
    from ratlip_cli.weights.model_folder import Model

STRENGTHS = (0.4, 0.7, 1.0)
STEPS, MOST_STEPS = 60, 10_000
MOST_STRENGTHS = 12


def steps_after_move(steps: int) -> int:
    """Steps of the search after a move, where the inversion has `steps`."""
    return math.ceil(steps / 3)


@dataclass(frozen=True)
class EditRequest:
    """Which image to change, from what its caption says to what it shall say.

    Attributes:
        image: a file; its square middle is taken, at the size that the model generates.
        start, end: captions, such as "a red bird" and "a blue bird"; what both say is kept.
        strengths: how far to go: 0 is the reconstruction, 1 the way from `start` to `end`.
        steps: of the inversion; each strength takes a third as many besides.
        model: a model or its name, as `load_model` takes it; the default model if left out.
        seed: decides the noise vectors from which the inversion starts.
        device: where to compute.

    Raises UsageError for values that cannot be used.
    """

    image: Path
    start: str
    end: str
    strengths: Sequence[float] = STRENGTHS
    steps: int = STEPS
    model: str | Model | None = None
    seed: int = 0
    device: str = "auto"

    @property
    def steps_in_all(self) -> int:
        """Steps of both searches; of a strength of 0 there is no second one."""
        return self.steps + sum(map(bool, self.strengths)) * steps_after_move(self.steps)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "strengths", tuple(self.strengths))
        check_request([self.start, self.end], seed=self.seed)
        if self.start.split() == self.end.split():
            raise UsageError(f"--from and --to both say '{self.start}'; say with --to what shall be different.")
        if not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"--steps is {self.steps}; it must be 1 to {MOST_STEPS}.")
        if not 1 <= len(self.strengths) <= MOST_STRENGTHS:
            raise UsageError(f"there are {len(self.strengths)} strengths; give 1 to {MOST_STRENGTHS}.")
        for strength in self.strengths:
            if not (math.isfinite(strength) and -10 <= strength <= 10):
                raise UsageError(f"--strength is {strength}; it must be a number from -10 to 10, usually 0.5 to 2.")
        names = [f"{strength + 0:g}" for strength in self.strengths]  # of the files; -0.0 is 0
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"--strength {twice[0]} is given twice; give each one once.")
        check_device(self.device)
