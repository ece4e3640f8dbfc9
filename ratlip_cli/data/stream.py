"""Captioned images that are read as they stream: shards of WebDataset, Parquet files, data sets of the Hub.

Nothing of them is kept: no copies, no list of files, no captions. The shards of an epoch, in a seeded order, are dealt
to lanes: a lane is a worker of a process, or a process without workers. A lane reads its shards one after another,
takes `buffer` images at a time and puts them in a seeded order. What a lane did so far is a few numbers, its state:
going on from it, the same images come in the same order with the same crops, flips and captions.

The shards are dealt, read on and found again by the `datasets` library: ``pip install 'ratlip[stream]'``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ratlip_cli.data.dataset import Batch, as_it_is, centre_view, random_view
from ratlip_cli.data.folders import file_state
from ratlip_cli.data.images import ImageError, read_image, stored_image
from ratlip_cli.data.layout import DatasetInfo, Problem, Record, stored_side
from ratlip_cli.data.readers import leave_signals_to_parent, read_in_turn
from ratlip_cli.data.request import HUB, STREAMED, expanded, shards_of
from ratlip_cli.data.sources import parquet, webdataset
from ratlip_cli.data.sources.tables import Row
from ratlip_cli.data.writer import CUT_SHORT
from ratlip_cli.errors import DataError, RatlipError, UsageError, one_line

_log = logging.getLogger(__name__)

TRIES = 3  # How often a shard is opened before it is passed over.
WAIT = 2.0  # Seconds before the second try of a shard that is elsewhere; before the third, twice as long.
NAMED = 10  # Problems that the log names.
FEWEST, FEWEST_SHARDS = 200, 10  # Images and shards of which a share is told; of fewer, as if they were so many.

_SHARDS, _BLOCK, _SAMPLE = 0, 2, 1
"""What a random generator is for; part of its seed, so that no two purposes share their numbers."""


class StreamedImages:
    """A stream of captioned images, for training alone.

    Args:
        source: a pattern of .tar or .parquet files, in which {00000..01242} counts and * stands for anything; a folder
            of img2dataset's; or hf://owner/name[/config][@revision].
        image_size: side of the images in pixels.
        seed: not negative; decides orders, crops, flips and captions.
        split: of a data set of the Hub.
        caption_column: which column, or key of a shard's .json files, holds the captions; the usual ones if empty.
        buffer: images of a lane that are put in a random order at a time.
        max_failed: share of the images, and of the shards, that may fail before the stream ends with an error.
        images: how many there are; 0: as the source says, or not known.
        needs_captions: whether images without a caption count as broken; else "" stands for it.

    Raises DataError where the source has no shards, RatlipError where the `datasets` library is missing.
    """

    def __init__(
        self,
        source: str,
        image_size: int,
        seed: int = 0,
        *,
        split: str = "train",
        caption_column: str = "",
        buffer: int = 1000,
        max_failed: float = 0.1,
        images: int = 0,
        needs_captions: bool = True,
    ) -> None:
        self.source, self.image_size, self.seed = source, image_size, seed
        self.caption_column, self.buffer, self.max_failed = caption_column, buffer, max_failed
        self.needs_captions = needs_captions
        self.shards, said = _of_hub(source, split) if source.startswith(HUB) else _on_disk(source)
        self.images = images or said
        self.info = DatasetInfo(
            name=source, source=source, licence="not known", split_rule="streamed", image_size=image_size
        )

    def __len__(self) -> int:
        """Number of images, 0 where it is not known."""
        return self.images

    @property
    def fingerprint(self) -> str:
        """64 hex digits that change with the names of the shards and, of files of this machine, with their sizes."""
        return self._digest(lambda file: str(file.stat().st_size))

    @property
    def state(self) -> str:
        """As `fingerprint`; it changes also when a file of this machine is written again or may now be read."""
        return self._digest(file_state)

    @property
    def is_elsewhere(self) -> bool:
        """Whether a shard is not on this machine: that it was written again does not show."""
        return any("://" in shard for shard in self.shards)

    def _digest(self, of_file: Callable[[Path], str]) -> str:
        digest = hashlib.sha256(self.caption_column.encode())
        for shard in self.shards:
            local = "://" not in shard
            told = of_file(Path(shard)) if local and Path(shard).is_file() else "-1"
            digest.update(f"\0{Path(shard).name if local else shard}\0{told}".encode())
        return digest.hexdigest()

    def lanes(self, workers: int, processes: int) -> int:
        """How many of `workers` each of `processes` has, as each reads shards of its own; without workers it is one.

        Raises UsageError where there are fewer shards than processes.
        """
        if len(self.shards) < processes:
            raise UsageError(
                f"{self.source} has {len(self.shards)} shards for {processes} processes, and each reads its own: start "
                "fewer, or write the data in more files."
            )
        return min(max(workers, 1), len(self.shards) // processes)

    def first_captions(self, count: int) -> list[str]:
        """A caption of each of the first `count` images that have one; FEWEST that have none are passed over.

        Raises DataError where none is found, and they are needed.
        """
        captions: list[str] = []
        without: list[str] = []
        for item in self._while_it_can_be_read():
            if item["captions"]:
                captions.append(item["captions"][0])
            elif item["problem"] or not item["end"]:
                without.append(item["problem"])
            if len(captions) == count or len(without) == FEWEST:
                break
        if not captions and self.needs_captions:
            raise DataError(_nothing(self.source, len(without), next(iter(without), "")))
        return captions

    def first_images(self, count: int) -> list[tuple[str, Tensor]]:
        """The first `count` images: their names, and their centres (3,S,S) in [-1,1].

        Raises DataError where none of the first FEWEST can be used.
        """
        found: list[tuple[str, Tensor]] = []
        failed: list[str] = []
        for item in self._while_it_can_be_read():
            problem = item["problem"]
            if not problem and not item["end"]:
                try:
                    image, _ = stored_image(read_image(item["image"]), None, stored_side(self.image_size))
                    found.append((item["name"], centre_view(image, self.image_size)))
                except ImageError as error:
                    problem = f"{self.shards[item['shard']]}: {item['name']}: {error}"
            if problem:
                failed.append(problem)
            if len(found) == count or len(failed) == FEWEST:
                break
        if not found:
            raise DataError(_nothing(self.source, len(failed), next(iter(failed), "")))
        return found

    def _while_it_can_be_read(self) -> Iterator[dict[str, Any]]:
        """Its `items`, until more shards failed than may of all that there are."""
        failed, allowed = 0, self.max_failed * max(len(self.shards), FEWEST_SHARDS)
        for item in self.items():
            yield item
            failed += item["end"] == "failed"
            if failed > allowed:
                return

    def items(self) -> Iterator[dict[str, Any]]:
        """All that `read_shards` yields of it, in its own order."""
        return read_shards(list(enumerate(self.shards)), self.caption_column or None, self.needs_captions)


def records(stream: StreamedImages, rank: Callable[[str], float], test_fraction: float) -> Iterator[Record | Problem]:
    """Yield a stream's images once, for `writer.write_dataset`; those whose name has a low `rank` are test."""
    for item in stream.items():
        if item["problem"]:
            shard, _, reason = item["problem"].partition(": ")
            lost = item["end"] == "failed" and "://" in stream.shards[item["shard"]]
            yield Problem(shard, f"{reason}; {CUT_SHORT}: prepare it again to read the rest" if lost else reason)
        elif not item["end"]:
            name = PurePosixPath(item["name"]).with_suffix("")
            place = rank(str(name))
            split = "test" if place < test_fraction else "train"
            origin = f"{stream.shards[item['shard']]}: {item['name']}"
            yield Record(
                "_".join(name.parts),
                split,
                item["captions"],
                item["image"],
                origin=origin,
                rank=place if test_fraction else None,
            )


def read_shards(
    shards: Sequence[tuple[int, str]], caption_column: str | None, needs_captions: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield what is in `shards`, numbers and places of files, in their order.

    Each image is {shard, place, name, image, captions, problem, end}: its bytes and captions or, under `problem`, why
    it cannot be used. After those of a shard comes an item of which `end` is "whole" or "failed", with the reason.
    """
    for number, shard in shards:
        blank = {"shard": number, "name": "", "image": b"", "captions": (), "problem": "", "end": ""}
        place, reason = 0, ""
        for attempt in range(TRIES):
            if attempt and "://" in shard:
                time.sleep(WAIT * attempt)
            try:
                for item in itertools.islice(_read_shard(shard, caption_column), place, None):
                    yield {**blank, "place": place, **_usable(item, shard, needs_captions)}
                    place += 1
                reason = ""
                break
            except Exception as error:  # File systems, archives and Parquet fail with exceptions of every kind.
                reason = f"{shard}: {one_line(error)}"
        yield {**blank, "place": place, "problem": reason, "end": "failed" if reason else "whole"}


def _read_shard(shard: str, caption_column: str | None) -> Iterator[Row | Problem]:
    with _opened(shard) as file:
        if shard.lower().endswith(parquet.SUFFIXES):
            yield from parquet.streamed(file, Path(PurePosixPath(shard).name), caption_column)
        else:
            yield from webdataset.streamed(file, caption_column)


def _opened(shard: str) -> IO[bytes]:
    if "://" not in shard:
        return Path(shard).open("rb")
    opened: IO[bytes] = importlib.import_module("fsspec").open(shard, "rb").open()
    return opened


def _usable(item: Row | Problem, shard: str, needs_captions: bool) -> dict[str, Any]:
    if isinstance(item, Problem):
        return {"problem": f"{shard}: {item.name}: {item.reason}"}
    captions = tuple(line for caption in item.captions if (line := " ".join(caption.split())))
    missing = "it has no image" if not isinstance(item.image, bytes) else ""
    if missing := (item.why or "it has no caption") if needs_captions and not captions else missing:
        return {"problem": f"{shard}: {item.file_name}: {missing}"}
    return {"name": item.file_name, "image": item.image, "captions": captions}


def _nothing(source: str, failed: int, first: str) -> str:
    example = f"; the first problem: {first}" if first else ""
    if not failed:
        return f"{source}: its shards hold no images{example}. Get them again."
    return (
        f"{source}: none of the first {failed} images can be used{example}. Say by --caption-column where the captions "
        "are, get the shards again, or train on images alone: --variant lafite --language-free."
    )


@dataclass(frozen=True)
class Counts:
    """What a lane, or all of them, met."""

    images: int = 0
    failed: int = 0  # Of these images.
    shards: int = 0  # Read to their end, or given up.
    failed_shards: int = 0  # Of these shards.

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class LaneState:
    """Where a lane is. All that it reads next follows from it."""

    epoch: int = 0
    without: dict[int, list[int]] = field(default_factory=dict)
    """Shards that other lanes read before, of each epoch from this on."""
    block: dict[str, Any] | None = None  # State of the `datasets` library where the block begins; None: of the epoch.
    place: int = 0  # Images of the block that were read before.
    failed: int = 0  # Of those, how many could not be decoded.
    counts: Counts = field(default_factory=Counts)  # Up to the beginning of the block.
    met: Counts = field(default_factory=Counts)  # Up to here, with all that was read of the block.
    begun: int = 0  # Shards of the lane's in this epoch that were opened up to the end of the block.

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> LaneState:
        """The state that `asdict` made this of."""
        counts = saved["counts"]
        return cls(**{**saved, "counts": Counts(**counts), "met": Counts(**saved.get("met", counts))})


def counted(positions: Sequence[Mapping[str, Any]]) -> Counts:
    """What all lanes had met at `StreamReader.position` of every process."""
    lanes = (LaneState.of(saved) for position in positions for saved in position["lanes"].values())
    return sum((lane.met for lane in lanes), Counts())


def _epoch_shards(seed: int, epoch: int, shards: int, without: Mapping[int, Sequence[int]]) -> list[int]:
    """The numbers of the shards that are dealt to the lanes in an epoch, in their order."""
    order = np.random.default_rng([seed, _SHARDS, epoch]).permutation(shards).tolist()
    gone = set(without.get(epoch, ()))
    return [number for number in order if number not in gone]


class _Lane(IterableDataset[Any]):
    """What one lane reads: batches, each with the lane's state after it and new problems.

    Where a shard failed, or many images did, that is told without a batch: nobody knows when the next one comes.
    """

    def __init__(self, stream: StreamedImages, lane: int, lanes: int, batch_size: int, state: LaneState) -> None:
        self._stream, self._lane, self._lanes, self._batch_size = stream, lane, lanes, batch_size
        self._state = state
        state.met = state.counts  # the block is read again
        self._problems: list[str] = []
        self._first_problem = ""
        self._side = stored_side(stream.image_size)

    def __iter__(self) -> Iterator[Any]:
        """Yield (batch or None, state, problems), or the error to raise, which a worker would make a traceback of."""
        images: list[Tensor] = []
        captions: list[str] = []
        try:
            for sample in self._samples():
                if sample is None:
                    yield None, asdict(self._state), self._problems
                    self._problems = []
                    continue
                images.append(sample[0])
                captions.append(sample[1])
                if len(images) == self._batch_size:
                    yield Batch(torch.stack(images), tuple(captions)), asdict(self._state), self._problems
                    images, captions, self._problems = [], [], []
        except RatlipError as error:
            yield error

    def _samples(self) -> Iterator[tuple[Tensor, str] | None]:
        """The lane's images without end, each with one of its captions; None where something failed that is to tell.

        Raises DataError where there was none in a row of epochs in which the lane met every shard.
        """
        state, stream = self._state, self._stream
        barren, since = set[int](), state.met
        while True:
            is_whole, before = state.block is None and not state.place, state.met
            dealt = _epoch_shards(stream.seed, state.epoch, len(stream.shards), state.without)
            if self._lane < len(dealt):
                for block in self._blocks(dealt):
                    if block is None:
                        yield None
                    else:
                        yield from self._in_order(block)
                usable = state.met.images - before.images > state.met.failed - before.failed
                if usable or not is_whole:
                    barren, since = set(), state.met
                else:
                    barren.update(dealt[self._lane :: self._lanes])
                if len(barren) == len(stream.shards):
                    raise DataError(_nothing(stream.source, state.met.images - since.images, self._first_problem))
            state.epoch, state.block, state.begun = state.epoch + 1, None, 0

    def _blocks(self, dealt: list[int]) -> Iterator[list[dict[str, Any]] | None]:
        """The images of the rest of an epoch, `buffer` at a time; None as of `_samples`."""
        state, stream = self._state, self._stream
        source = (
            _library()
            .IterableDataset.from_generator(
                read_shards,
                gen_kwargs={
                    "shards": [(number, stream.shards[number]) for number in dealt],
                    "caption_column": stream.caption_column or None,
                    "needs_captions": stream.needs_captions,
                },
            )
            .shard(num_shards=self._lanes, index=self._lane, contiguous=False)
        )
        if state.block is not None:
            source.load_state_dict(state.block)
        items, own = iter(source), dealt[self._lane :: self._lanes]
        while True:
            state.counts = state.met
            block = yield from self._next_block(items)
            if not block:
                return
            state.begun = own.index(block[-1]["shard"]) + 1
            state.met += Counts(failed=state.failed)  # of what was read before
            yield block
            state.block, state.place, state.failed = source.state_dict(), 0, 0

    def _next_block(self, items: Iterator[dict[str, Any]]) -> Generator[None, None, list[dict[str, Any]]]:
        block: list[dict[str, Any]] = []
        for item in items:
            failed = int(bool(item["problem"]))
            if item["end"]:
                self._state.met += Counts(shards=1, failed_shards=failed)
            else:
                self._state.met += Counts(images=1, failed=failed)
            if failed:
                self._note(item["problem"])
                if item["end"] or self._many_failed:
                    yield None
            elif not item["end"]:
                block.append(item)
                if len(block) == self._stream.buffer:
                    break
        return block

    def _in_order(self, block: list[dict[str, Any]]) -> Iterator[tuple[Tensor, str] | None]:
        """The rest of a block's images in its seeded order; None as of `_samples`."""
        state, stream = self._state, self._stream
        entropy = [stream.seed, state.epoch, block[0]["shard"], block[0]["place"]]
        order = np.random.default_rng([_BLOCK, *entropy]).permutation(len(block)).tolist()
        for place in range(state.place, len(block)):
            state.place = place + 1
            item, block[order[place]] = block[order[place]], {}
            random = np.random.default_rng([stream.seed, _SAMPLE, state.epoch, item["shard"], item["place"]])
            try:
                image, _ = stored_image(read_image(item["image"]), None, self._side)
            except ImageError as error:
                state.failed += 1
                state.met += Counts(failed=1)
                self._note(f"{stream.shards[item['shard']]}: {item['name']}: {error}")
                if self._many_failed:
                    yield None
                continue
            view = random_view(image, stream.image_size, stream.info.flip, random)
            captions = item["captions"] or ("",)
            yield view, captions[random.integers(len(captions))]

    @property
    def _many_failed(self) -> bool:
        return self._state.met.failed % FEWEST == 0

    def _note(self, problem: str) -> None:
        """Note a problem. Raises DataError where nothing was usable so far."""
        self._first_problem = self._first_problem or problem
        if len(self._problems) < NAMED:
            self._problems.append(problem)
        if self._state.met.failed == self._state.met.images >= FEWEST:
            raise DataError(_nothing(self._stream.source, self._state.met.images, self._first_problem))


class StreamReader:
    """The batches of one process, and where in the stream it is.

    Args:
        batch_size: images of this process in a batch.
        workers: processes that read; each needs shards of its own, so there are fewer where these are few. 0: this one.
        rank, processes: which of how many processes this one is.
        positions: `position` of every process of the run that is gone on with, by rank; none for a beginning. Where
            there were as many processes and workers, the same batches follow as would have. Otherwise what nobody began
            of the epoch is dealt anew: no image comes twice in it, and the rest of begun shards does not come.

    Raises UsageError where there are fewer shards than processes.
    """

    def __init__(
        self,
        stream: StreamedImages,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        processes: int = 1,
        positions: Sequence[Mapping[str, Any]] = (),
        pin_memory: bool = False,
    ) -> None:
        self._stream, self._batch_size, self._pin_memory = stream, batch_size, pin_memory
        self._in_workers = min(workers, 1)
        here = stream.lanes(workers, processes)
        if here < workers:
            _log.info("%s: %d workers read it, not %d, because of its few shards", stream.source, here, workers)
        self._lanes = [rank + processes * worker for worker in range(here)]
        self._among = {"processes": processes, "workers": here, "buffer": stream.buffer, "seed": stream.seed}
        self._turn = 0
        if positions and self._among.items() <= positions[0].items():
            self._turn = positions[rank]["turn"]
            self._states = dict(positions[rank]["lanes"])
        else:
            state = _dealt_anew(positions, len(stream.shards)) if positions else LaneState()
            so_far = counted(positions)
            first = replace(state, counts=so_far, met=so_far)  # one of all lanes goes on counting
            self._states = {lane: asdict(state if lane else first) for lane in self._lanes}
        self._met = {lane: LaneState.of(state).met for lane, state in self._states.items()}
        self.named: list[str] = []  # Problems that the log names.

    def position(self) -> dict[str, Any]:
        """Where the stream is after the last batch: plain values, for `positions`."""
        return {**self._among, "turn": self._turn, "lanes": dict(self._states)}

    @property
    def counts(self) -> Counts:
        """What was met up to the last batch in this process's lanes."""
        return sum(self._met.values(), Counts())

    def batches(self) -> Generator[Batch, None, None]:
        """Yield batches without end, from `position` on.

        The workers leave signals to this process; they end with it, or when the generator is closed. Raises DataError
        where more fails than may, nothing can be used, or a worker was killed.
        """
        lanes = self._among["processes"] * self._among["workers"]
        loaders = [
            DataLoader(
                _Lane(self._stream, lane, lanes, self._batch_size, LaneState.of(self._states[lane])),
                batch_size=None,
                num_workers=self._in_workers,
                collate_fn=as_it_is,
                pin_memory=self._pin_memory,
                worker_init_fn=leave_signals_to_parent,
                generator=torch.Generator(),
            )
            for lane in self._lanes
        ]

        for item in read_in_turn(loaders, lambda: self._turn):
            lane = self._lanes[self._turn]
            batch, state, problems = item
            self._met[lane] = LaneState.of(state).met
            self.name(problems)
            self._check_share()
            if batch is not None:
                self._states[lane] = state
                self._turn = (self._turn + 1) % len(self._lanes)
                yield batch._replace(captions=tuple(batch.captions))  # pinning memory made a list of it

    def name(self, problems: Iterable[str]) -> None:
        """Name problems in the log, this process's or others', each once and ten at most."""
        for problem in problems:
            if problem not in self.named and len(self.named) < NAMED:
                self.named.append(problem)
                last = "; no more are named" if len(self.named) == NAMED else ""
                _log.warning("passed over: %s%s", problem, last)

    def _check_share(self) -> None:
        met, allowed = self.counts, self._stream.max_failed
        example = f"; the first: {self.named[0]}" if self.named else ""
        for failed, among, fewest, what in (
            (met.failed, met.images, FEWEST, "images"),
            (met.failed_shards, met.shards, FEWEST_SHARDS, "shards"),
        ):
            if failed > allowed * max(among, fewest):
                raise DataError(
                    f"{self._stream.source}: {failed:,} of {among:,} {what} cannot be used, and --max-failed allows "
                    f"{allowed:g} of them{example}. Get them again, or allow more."
                )


def _dealt_anew(positions: Sequence[Mapping[str, Any]], shards: int) -> LaneState:
    """Where lanes begin when they are others than before: with the shards of the epoch that none of those began."""
    lanes = positions[0]["processes"] * positions[0]["workers"]
    states = {lane: LaneState.of(saved) for position in positions for lane, saved in position["lanes"].items()}
    first = min(state.epoch for state in states.values())
    begun: dict[int, set[int]] = {}
    for lane, state in states.items():
        for epoch in range(first, state.epoch + 1):
            own = _epoch_shards(positions[0]["seed"], epoch, shards, state.without)[lane::lanes]
            without = state.without.get(epoch, ())
            begun.setdefault(epoch, set()).update(without, own if epoch < state.epoch else own[: state.begun])
    return LaneState(epoch=first, without={epoch: sorted(numbers) for epoch, numbers in begun.items()})


def _library() -> Any:
    """The `datasets` library. Raises RatlipError where it is missing."""
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise RatlipError("streams are read by the datasets library: `pip install 'ratlip[stream]'`.") from None


def _on_disk(source: str) -> tuple[tuple[str, ...], int]:
    """The shards of a pattern or folder, and the number of their images, 0 where it is not known."""
    _library()
    if Path(source).is_dir():
        shards = list(map(str, shards_of(Path(source))))
    else:
        shards = [path for pattern in expanded(source) for path in _matching(pattern)]
    local = [Path(shard) for shard in shards if "://" not in shard]
    if not shards or (local and not any(path.is_file() for path in local)):
        raise DataError(f"{source} does not exist: no file has such a name. Paths begin at {Path.cwd()}.")
    counts = [_images_of(shard) for shard in local]
    return _known_kinds(source, shards), 0 if None in counts else sum(count or 0 for count in counts)


def _matching(pattern: str) -> list[str]:
    """The files of a pattern, an address, or a name; brackets that match nothing stand for themselves."""
    if "://" in pattern:
        if "*" in pattern.partition("?")[0]:
            raise UsageError(f"{pattern}: at an address * finds nothing; give the numbers, as in {{00000..01242}}.tar.")
        return [pattern]
    if not has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    return sorted(glob(pattern) or glob(pattern.replace("[", "[[]")))  # noqa: PTH207


def _images_of(shard: Path) -> int | None:
    """How many images a shard has, by what img2dataset wrote beside it or its own footer; None where nothing does."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if shard.suffix == ".parquet":
            return int(importlib.import_module("pyarrow.parquet").read_metadata(shard).num_rows)
        return int(json.loads(shard.with_name(f"{shard.stem}_stats.json").read_bytes())["successes"])
    return None


def _of_hub(source: str, split: str) -> tuple[tuple[str, ...], int]:
    """The shards of hf://owner/name[/config][@revision], and the number of their images, 0 where it is not known."""
    found = re.fullmatch(rf"{HUB}([^/@]+/[^/@]+)(?:/([^@]+))?(?:@(.+))?", source)
    if found is None:
        raise UsageError(f"{source} is no data set of the Hub; write hf://owner/name, or hf://owner/name@revision.")
    name, config, revision = found.groups()
    try:
        builder = _library().load_dataset_builder(name, config, revision=revision)
    except RatlipError:
        raise
    except Exception as error:  # The Hub, its answers and what lies there fail with exceptions of every kind.
        raise DataError(f"{source} cannot be opened: {one_line(error)}") from error
    files = builder.config.data_files or {}
    if split not in files:
        raise UsageError(f"{source} has no split '{split}'; it has: {', '.join(map(str, files)) or 'none'}.")
    said = (builder.info.splits or {}).get(split)
    return _known_kinds(source, [str(file) for file in files[split]]), (said.num_examples or 0) if said else 0


def _known_kinds(source: str, shards: Sequence[str]) -> tuple[str, ...]:
    for shard in shards:
        if not shard.lower().endswith(STREAMED):
            raise DataError(
                f"{source}: {shard} cannot be read as it streams; .tar and .parquet can. `ratlip prepare` reads others."
            )
    return tuple(shards)
