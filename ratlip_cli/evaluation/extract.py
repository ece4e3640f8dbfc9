"""Images to features: every image goes through every network once, a batch at a time, and its features to files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import ratlip_cli
from ratlip_cli.distributed import world
from ratlip_cli.errors import WeightsError, keeping
from ratlip_cli.evaluation.feature_file import FeatureFile, feature_writer, kept_features
from ratlip_cli.evaluation.images import TOGETHER, Images
from ratlip_cli.evaluation.inputs import Inputs
from ratlip_cli.evaluation.journal import Journal
from ratlip_cli.evaluation.networks import FeatureNetwork, Networks
from ratlip_cli.files import whole_file
from ratlip_cli.progress import Progress, Stopped, duration, silent

_log = logging.getLogger(__name__)


PIECE = TOGETHER
"""Batches whose features are kept together, that each of several processes makes at a time, and by which the time of
the rest is told."""

_WARM, _AGAIN = 2.0, 5.0
"""Seconds of a piece in which it does not count that it is the first, and after which the time is told again."""

SOON = 5.0
"""Seconds that nobody is told of."""

_REAL, _GENERATED = "real images", "generated images"

_DONE, _STOPPED = "done", "stopped"
"""What the first of several processes says to the others when nothing more is wanted of them."""


class Features(NamedTuple):
    """What the networks made of the images."""

    fake: Mapping[str, FeatureFile]  # By the name of each network.
    real: FeatureFile | None  # By the network for FID, KID, precision and recall.
    seconds: Mapping[str, float]  # What each network took, by its name.
    journal: Journal | None  # Holds those of `fake` until they are used.
    kept: str  # Says so, for whoever stops the work before; "" where nothing is kept.


def extract(
    inputs: Inputs,
    networks: Networks,
    batch_size: int | None,
    scratch: Path,
    progress: Progress,
    resumable: bool = False,
) -> Features:
    """Features of the generated images by all networks, and of the real ones by the network that compares them.

    Those of the real images are kept beside the images under the fingerprint of all that decides them. Of several
    processes the first one calls it, and the others `help_extract`: each makes every so many batches.

    Args:
        batch_size: images at a time, see `images_at_a_time`.
        scratch: folder for the other features; it must outlive the result.
        resumable: say how long it will take, and keep what is done where somebody stops it, see `Journal`.
    """
    by_name = networks.by_name()
    run = _Run.of(networks, batch_size, progress, resumable)
    everybody = list(by_name.values())
    paths = [scratch / f"fake{number}.npy" for number in range(len(by_name))]
    fake = _Pass(_GENERATED, inputs.fake, everybody, run.journal(inputs.fake, everybody), paths)
    real: _Real | None = None
    if networks.features is not None and inputs.real is not None:
        real = run.real(inputs.real, networks.features, scratch)
    passes = [fake] if real is None or real.are_kept else [real.extraction, fake]
    world().wait(however_long=True)
    try:
        run.all(passes)
    except Stopped:
        world().gather(_STOPPED)
        raise
    world().gather(_DONE)
    real_features = None if real is None else FeatureFile(real.path)
    made = dict(zip(by_name, map(FeatureFile, paths), strict=True))
    return Features(made, real_features, run.seconds, fake.journal, _kept([fake]))


def help_extract(inputs: Inputs, networks: Networks, batch_size: int | None) -> None:
    """Make this process's share of the features that the first process wants in `extract`, with the same arguments.

    Raises Stopped where that one was stopped.
    """
    run = _Run.of(networks, batch_size, silent, resumable=False)
    passes = {_GENERATED: _Pass(_GENERATED, inputs.fake, list(networks.by_name().values()), None)}
    if networks.features is not None and inputs.real is not None:
        passes[_REAL] = _Pass(_REAL, inputs.real, [networks.features], None)
    world().wait(however_long=True)
    while (wanted := world().gather(None)[0]) not in (_DONE, _STOPPED):
        what, first = wanted
        run.shared(passes[what], first)
    if wanted == _STOPPED:
        raise Stopped


def all_of_features(images: Images, network: FeatureNetwork) -> str:
    """All that decides the features of images by a network."""
    return f"{images.fingerprint} {network.fingerprint} {network.resize}"


def images_at_a_time(networks: Networks, batch_size: int | None) -> int:
    """`batch_size`; 16 on a CPU and 64 elsewhere if left out."""
    return batch_size or (16 if networks.device.type == "cpu" else 64)


@dataclass(eq=False)
class _Pass:
    """All images of one kind through some networks."""

    what: str
    images: Images
    networks: Sequence[FeatureNetwork]
    journal: Journal | None
    paths: Sequence[Path] = ()
    """The files for the features, one for each network."""
    decisive: str = ""
    done: int = 0
    """Images whose features are written."""

    def kept(self) -> Iterator[list[Tensor]]:
        """The features that are kept of the last time."""
        return iter(()) if self.journal is None else self.journal.read()


def _kept(passes: Sequence[_Pass]) -> str:
    """Says of how many images the features are kept, where they are of any."""
    counts = [(0 if one.journal is None else one.journal.kept, one) for one in passes]
    kept = " and ".join(f"{count:,} of {len(one.images):,} {one.what}" for count, one in counts if count)
    return f"The features of {kept} are kept: run the same again to go on." if kept else ""


@dataclass(frozen=True)
class _Real:
    """The features of the real images, or what it takes to have them."""

    path: Path
    are_kept: bool
    extraction: _Pass


@dataclass(frozen=True)
class _Run:
    """What all passes over images share."""

    batch_size: int
    device: torch.device
    progress: Progress
    seconds: dict[str, float]
    resumable: bool

    @classmethod
    def of(cls, networks: Networks, batch_size: int | None, progress: Progress, resumable: bool) -> _Run:
        """What all passes by these networks share; the arguments are those of `extract`."""
        seconds = dict.fromkeys(networks.by_name(), 0.0)
        return cls(images_at_a_time(networks, batch_size), networks.device, progress, seconds, resumable)

    @property
    def piece(self) -> int:
        """Batches that all processes make at a time."""
        return PIECE * world().size

    def real(self, images: Images, network: FeatureNetwork, scratch: Path) -> _Real:
        """The features that were kept where they fit; with a note where others are in their place."""
        decisive = all_of_features(images, network)
        path = (_cache(images) or scratch) / f"{hashlib.sha256(decisive.encode()).hexdigest()[:16]}.npy"
        are_kept = False
        if path.is_file():
            with contextlib.suppress(OSError):
                are_kept = kept_features(path, len(images), network.dimensions, decisive) is not None
            if not are_kept:
                _log.info("%s does not hold what this ratlip keeps there: the features are computed again", path)
        journal = None if are_kept else self.journal(images, [network])
        return _Real(path, are_kept, _Pass(_REAL, images, [network], journal, [path], decisive))

    def journal(self, images: Images, networks: Sequence[FeatureNetwork]) -> Journal | None:
        """Where the features of these images are kept until all are there; None where they are not to be kept."""
        folder = _cache(images)
        if not self.resumable or folder is None:
            return None
        decisive = [images.fingerprint, *(f"{network.fingerprint} {network.resize}" for network in networks)]
        here = (ratlip_cli.__version__, torch.__version__, torch.get_num_threads(), self.device, self.batch_size)
        dimensions = [network.dimensions for network in networks]
        return Journal(folder, " ".join(map(str, (*decisive, *here))), dimensions, PIECE * self.batch_size)

    def all(self, passes: Sequence[_Pass]) -> None:
        """Write the features of all passes, one pass after the other once the time is said."""
        with contextlib.ExitStack() as stack:
            written = [stack.enter_context(contextlib.closing(self.written(one))) for one in passes]
            with keeping(lambda: _kept(passes)):
                if self.resumable:
                    self.say_time(passes, written)
                for one, batches in zip(passes, written, strict=True):
                    self.finish(one, batches)
                    if one.what == _REAL and one.journal is not None:  # the whole file is kept
                        one.journal.remove()

    def say_time(self, passes: Sequence[_Pass], written: Sequence[Iterator[None]]) -> None:
        """Say how long the rest of all passes will take, by the first batches of each, where it is long."""
        counts, seconds = [], 0.0
        for one, batches in zip(passes, written, strict=True):
            next(batches)
            counts.append(f"{len(one.images) - one.done:,} {one.what}")
            rate = 0.0
            for _ in range(2):
                before, started = one.done, time.perf_counter()
                deque(itertools.islice(batches, self.piece), maxlen=0)
                took = time.perf_counter() - started
                if one.done > before:
                    rate = took / (one.done - before)
                if took > _WARM:
                    break
            seconds += rate * (len(one.images) - one.done)
        if seconds > SOON:
            _log.info("%s on %s: about %s", " and ".join(counts), self.device, duration(seconds))

    def finish(self, one: _Pass, batches: Iterator[None]) -> None:
        """Write the rest of a pass, and say once more how long it will take."""
        begun, started, told = one.done, time.perf_counter(), not self.resumable
        for _ in batches:
            took, left = time.perf_counter() - started, len(one.images) - one.done
            whole_piece = one.done > begun and (one.done - begun) % (self.piece * self.batch_size) == 0
            if not told and took > _AGAIN and whole_piece and left:
                told = True
                seconds = duration(took * left / (one.done - begun))
                _log.info("%s: %d of %d, about %s left", one.what, one.done, len(one.images), seconds)

    def written(self, one: _Pass) -> Generator[None, None, None]:
        """Write the features of all images, a file for each network.

        Yields when what was kept is written, and then after every batch, whose features are kept by then.

        Raises WeightsError for features that are not finite.
        """
        images, journal = one.images, one.journal
        with contextlib.ExitStack() as stack:
            appends = []
            for path, network in zip(one.paths, one.networks, strict=True):
                partial = stack.enter_context(whole_file(path, durable=one.what == _REAL))
                writer = feature_writer(partial, len(images), network.dimensions, one.decisive)
                appends.append(stack.enter_context(writer))

            def write(features: list[Tensor]) -> None:
                for append, rows in zip(appends, features, strict=True):
                    append(rows)
                one.done += len(features[0])

            for features in one.kept():
                write(features)
            if one.done:
                _log.info("%s: the features of %d of %d are kept from the last time", one.what, one.done, len(images))
            self.progress(one.what, one.done, len(images), "images")
            yield
            for features in self._features(one, one.done):
                write(features)
                if journal is not None:
                    journal.add(features)
                self.progress(one.what, one.done, len(images), "images")
                yield

    def _features(self, one: _Pass, start: int) -> Generator[list[Tensor], None, None]:
        """Yield what each network makes of each batch, from the image `start` on."""
        if world().size == 1:
            yield from self._made(one, range(start, len(one.images), self.batch_size))
            return
        for first in range(start, len(one.images), self.piece * self.batch_size):
            world().gather((one.what, first))
            yield from self.shared(one, first)

    def shared(self, one: _Pass, first: int) -> list[list[Tensor]]:
        """What the networks make of the next `piece` batches from the image `first` on, of which each process has every
        so many; all must ask."""
        rank, size = world().rank, world().size
        end = min(first + self.piece * self.batch_size, len(one.images))
        own = range(first + rank * self.batch_size, end, size * self.batch_size)
        parts = world().gather(list(self._made(one, own)))
        return [parts[number % size][number // size] for number in range(sum(map(len, parts)))]

    def _made(self, one: _Pass, starts: Sequence[int]) -> Iterator[list[Tensor]]:
        """What each network makes of the batches that begin with the images `starts`."""
        for batch in one.images.batches(self.batch_size, starts):
            made = []
            for network in one.networks:
                started = time.perf_counter()
                features = network(batch)
                if not features.isfinite().all():
                    raise WeightsError(
                        f"{network.name} makes features that are not numbers of the {one.what}: its weights are "
                        "broken; get them again."
                    )
                made.append(features)
                self.seconds[network.name] += time.perf_counter() - started
            yield made


def _cache(images: Images) -> Path | None:
    """The folder for features of these images, where it can be written."""
    if images.cache is None:
        return None
    place = images.cache if images.cache.exists() else images.cache.parent
    return images.cache if os.access(place, os.W_OK | os.X_OK) else None
