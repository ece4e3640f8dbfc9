"""What can be asked of `generate`. Standard library only: the command line checks it before torch is imported."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.errors import UsageError
from ratlip_cli.files import printable
from ratlip_cli.setting import MOST_COUNT, check_count, check_seed

PRECISIONS = ("auto", "fp32", "bf16")
"""Of sampling."""

FORMATS = ("png", "jpg", "webp")
"""Of image files."""

LIKE_WEIGHT, LIKE_NOISE = 0.5, 0.1
"""Of an image beside a prompt, and of noise in its vector, where nobody says how much."""

"""Images of one prompt that can be asked for by their indices."""

ANIMATIONS, STRIP = ("mp4", "gif", "webp"), "png"
"""Formats of moving images, and that of all frames side by side."""

FRAMES, STRIP_FRAMES, MOST_FRAMES = 60, 8, 3600
"""Of an interpolation: as an animation and as a strip where nobody says how many, and at most."""


@dataclass(frozen=True)
class InterpolationRequest:
    """Images from prompt to prompt under one noise vector. Raises UsageError for values that cannot be used.

    Attributes:
        prompts: two or more; each has a frame of its own, which is the image that `generate` makes of it.
        frames: of all the way; the first is that of the first prompt, and the last that of the last.
        loop: whether the way leads on to the first prompt, whose frame would follow on the last one.
        seed, index: decide the noise vector, as in `generate`.
        truncation: psi, as in `generate`.
    """

    prompts: Sequence[str]
    frames: int = FRAMES
    loop: bool = False
    seed: int = 0
    index: int = 0
    truncation: float = 1.0

    def __post_init__(self) -> None:
        check_request(self.prompts, 1, self.seed, self.truncation, indices=[self.index])
        if len(self.prompts) < 2:
            raise UsageError('an interpolation needs two prompts or more, such as --interpolate "a red bird" "a rose".')
        if not len(self.prompts) <= self.frames <= MOST_FRAMES:
            raise UsageError(
                f"--frames is {self.frames}; it must be {len(self.prompts)}, one a prompt, to {MOST_FRAMES}."
            )

    @property
    def stops(self) -> list[int]:
        """The frame of each prompt; with `loop` also that of the first prompt's return, which is one too many."""
        last = self.frames if self.loop else self.frames - 1
        ways = len(self.prompts) if self.loop else len(self.prompts) - 1
        return [round(stop * last / ways) for stop in range(ways + 1)]

    def places(self) -> list[tuple[int, int, float]]:
        """For each frame two prompts, by their numbers, and the share of the second."""
        stops, count = self.stops, len(self.prompts)
        places = [
            (way, (way + 1) % count, (frame - start) / (end - start))
            for way, (start, end) in enumerate(itertools.pairwise(stops))
            for frame in range(start, end)
        ]
        return places if self.loop else [*places, (count - 2, count - 1, 1.0)]


@dataclass(frozen=True)
class LikeRequest:
    """An image that generated ones are to be like. Raises UsageError for values that cannot be used.

    Attributes:
        image: a file.
        weight: w, of its vector beside the prompt's, 0 to 1; 1 takes it alone.
        noise: s, how much of its vector is noise, 0 to 1, another one for each generated image.
    """

    image: Path
    weight: float = 1.0
    noise: float = LIKE_NOISE

    @property
    def label(self) -> str:
        """What stands for a prompt in records where there is none: text, whatever bytes the file's name has."""
        return f"like {printable(self.image.name)}"

    def __post_init__(self) -> None:
        for option, value in (("--like-weight", self.weight), ("--like-noise", self.noise)):
            if not 0 <= value <= 1:
                raise UsageError(f"{option} is {value}; it must be from 0 to 1.")


def check_request(
    prompts: Sequence[str],
    count: int = 1,
    seed: int = 0,
    truncation: float = 1.0,
    best_of: int = 1,
    batch_size: int | None = None,
    indices: Sequence[int] | None = None,
) -> None:
    """Raise UsageError where `generate` would: no prompt, an empty one, or numbers out of range."""
    if not prompts:
        raise UsageError("there is no prompt; give at least one, such as 'a red bird'.")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise UsageError(f"prompt {number} is empty; give one, such as 'a red bird'.")
        if not prompt.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise UsageError(f"prompt {number} is not UTF-8 text; type or save it as UTF-8.")
    for what, number in (("the number of images", count), ("best-of", best_of)):
        check_count(what, number)
    check_seed(seed)
    if not 0 <= truncation <= 10:
        raise UsageError(f"truncation is {truncation}; it must be between 0 and 10, usually 0.5 to 1.")
    check_count("batch size", batch_size)
    if indices is not None:
        if not indices or min(indices) < 0:
            raise UsageError("indices are whole numbers from 0, at least one, such as 7,12-20.")
        if len(set(indices)) < len(indices):
            raise UsageError("an index is there twice, and both images would be the same: give each once.")
        if count > 1 or best_of > 1:
            raise UsageError("indices say which images to generate; leave out the number of images and best-of.")


def parse_indices(text: str) -> list[int]:
    """The numbers in a list such as 7,12-20, each once, in its order. Raises UsageError for any other text."""
    indices: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:\s*-\s*([0-9]{1,18}))?\s*", part)
        if match is None:
            raise UsageError(f"'{text}' is no list of indices; write numbers and ranges, such as 7,12-20.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(
                f"'{text}' has the range {part.strip()}, which goes backwards; write the smaller one first."
            )
        if last - first + len(indices) >= MOST_COUNT:
            raise UsageError(f"'{text}' are more than {MOST_COUNT:,} indices; ask for fewer at a time.")
        indices |= dict.fromkeys(range(first, last + 1))
    return list(indices)
