"""Images to features: every image goes through every network once, a batch at a time, and its features to files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import ratlip_cli
from ratlip_cli.distributed import world
from ratlip_cli.errors import Interrupted, WeightsError
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

_SHORT = 4 * PIECE
"""Batches that nobody is told the time of."""

_WARM, _AGAIN = 2.0, 5.0
"""Seconds of a piece in which it does not count that it is the first, and after which the time is told again."""

_REAL, _GENERATED = "real images", "generated images"

_DONE, _STOPPED = "done", "stopped"
"""What the first of several processes says to the others when nothing more is wanted of them."""


class Features(NamedTuple):
    """What the networks made of the images."""

    fake: Mapping[str, FeatureFile]  # By the name of each network.
    real: FeatureFile | None  # By the network for FID, KID, precision and recall.
    seconds: Mapping[str, float]  # What each network took, by its name.
    journal: Journal | None  # Holds those of `fake` until they are used.


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
    passes = [_Pass(_GENERATED, inputs.fake, everybody, run.journal(inputs.fake, everybody))]
    real: _Real | None = None
    if networks.features is not None and inputs.real is not None:
        real = run.real(inputs.real, networks.features, scratch)
        if real.features is None:
            passes.insert(0, real.extraction)
    world().wait()
    try:
        if resumable:
            run.say_time(passes)
        *_, fake = passes
        real_features = None if real is None else run.real_features(real)
        paths = [scratch / f"fake{number}.npy" for number in range(len(by_name))]
        run.write(paths, fake)
    except Stopped:
        world().gather(_STOPPED)
        raise
    world().gather(_DONE)
    return Features(dict(zip(by_name, map(FeatureFile, paths), strict=True)), real_features, run.seconds, fake.journal)


def help_extract(inputs: Inputs, networks: Networks, batch_size: int | None) -> None:
    """Make this process's share of the features that the first process wants in `extract`, with the same arguments.

    Raises Stopped where that one was stopped.
    """
    run = _Run.of(networks, batch_size, silent, resumable=False)
    passes = {_GENERATED: _Pass(_GENERATED, inputs.fake, list(networks.by_name().values()), None)}
    if networks.features is not None and inputs.real is not None:
        passes[_REAL] = _Pass(_REAL, inputs.real, [networks.features], None)
    world().wait()
    while (wanted := world().gather(None)[0]) not in (_DONE, _STOPPED):
        what, first = wanted
        run.shared(passes[what], first)
    if wanted == _STOPPED:
        raise Stopped


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
    decisive: str = ""
    ahead: list[list[Tensor]] = field(default_factory=list)
    """Features of the next batches, by which the time was told."""

    def kept(self) -> Iterator[list[Tensor]]:
        """The features that are kept of the last time."""
        return iter(()) if self.journal is None else self.journal.read()


@dataclass(frozen=True)
class _Real:
    """The features of the real images, or what it takes to have them."""

    path: Path
    features: FeatureFile | None
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
        decisive = f"{images.fingerprint} {network.fingerprint} {network.resize}"
        path = (_cache(images) or scratch) / f"{hashlib.sha256(decisive.encode()).hexdigest()[:16]}.npy"
        kept = None
        if path.is_file():
            with contextlib.suppress(OSError):
                kept = kept_features(path, len(images), network.dimensions, decisive)
            if kept is None:
                _log.info("%s does not hold what this ratlip keeps there: the features are computed again", path)
        journal = None if kept is not None else self.journal(images, [network])
        return _Real(path, kept, _Pass(_REAL, images, [network], journal, decisive))

    def real_features(self, real: _Real) -> FeatureFile:
        """The features that were kept, else new ones, which are kept."""
        if real.features is not None:
            return real.features
        with whole_file(real.path) as partial:
            self.write([partial], real.extraction)
        if real.extraction.journal is not None:
            real.extraction.journal.remove()
        return FeatureFile(real.path)

    def journal(self, images: Images, networks: Sequence[FeatureNetwork]) -> Journal | None:
        """Where the features of these images are kept until all are there; None where they are not to be kept."""
        folder = _cache(images)
        if not self.resumable or folder is None:
            return None
        decisive = [images.fingerprint, *(f"{network.fingerprint} {network.resize}" for network in networks)]
        here = (ratlip_cli.__version__, torch.__version__, torch.get_num_threads(), self.device, self.batch_size)
        dimensions = [network.dimensions for network in networks]
        return Journal(folder, " ".join(map(str, (*decisive, *here))), dimensions, PIECE * self.batch_size)

    def say_time(self, passes: Sequence[_Pass]) -> None:
        """Say how long all of it will take, by a batch of each kind of images that is tried, where it is long."""
        left = [len(one.images) - sum(len(rows[0]) for rows in one.kept()) for one in passes]
        if all(count <= _SHORT * self.batch_size * world().size for count in left):
            return
        seconds = 0.0
        for one, count in zip(passes, left, strict=True):
            features, rate = self._features(one, len(one.images) - count), 0.0
            for _ in range(2):
                started = time.perf_counter()
                if piece := list(itertools.islice(features, self.piece)):
                    one.ahead += piece
                    took = time.perf_counter() - started
                    rate = took / sum(len(rows[0]) for rows in piece)
                    if took > _WARM:
                        break
            features.close()
            seconds += rate * (count - sum(len(rows[0]) for rows in one.ahead))
        counts = [f"{count:,} {one.what}" for one, count in zip(passes, left, strict=True)]
        _log.info("%s on %s: about %s", " and ".join(counts), self.device, duration(seconds))

    def write(self, paths: Sequence[Path], one: _Pass) -> None:
        """Write the features of all images, a file for each network. Raises WeightsError for those not finite."""
        images, journal = one.images, one.journal
        with contextlib.ExitStack() as stack:
            appends = [
                stack.enter_context(feature_writer(path, len(images), network.dimensions, one.decisive))
                for path, network in zip(paths, one.networks, strict=True)
            ]
            done = 0
            for features in one.kept():
                for append, rows in zip(appends, features, strict=True):
                    append(rows)
                done += len(features[0])
            if done:
                _log.info("%s: the features of %d of %d are kept from the last time", one.what, done, len(images))
            self.progress(one.what, done, len(images), "images")
            begun = done + sum(len(rows[0]) for rows in one.ahead)
            started, told = time.perf_counter(), not self.resumable
            try:
                for features in itertools.chain(one.ahead, self._features(one, begun)):
                    for append, rows in zip(appends, features, strict=True):
                        append(rows)
                    if journal is not None:
                        journal.add(features)
                    done += len(features[0])
                    took = time.perf_counter() - started
                    whole_piece = done > begun and (done - begun) % (self.piece * self.batch_size) == 0
                    if not told and took > _AGAIN and whole_piece and done < len(images):
                        told, left = True, took * (len(images) - done) / (done - begun)
                        _log.info("%s: %d of %d, about %s left", one.what, done, len(images), duration(left))
                    self.progress(one.what, done, len(images), "images")
            except Interrupted as error:
                if journal is None or not journal.kept:
                    raise
                raise Interrupted(
                    f"{error} The features of {journal.kept:,} of {len(images):,} {one.what} are kept: run the same "
                    "again to go on.",
                    error.exit_code - 128,
                ) from None

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
    return images.cache if images.cache is not None and os.access(images.cache.parent, os.W_OK) else None
