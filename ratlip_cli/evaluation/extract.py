"""Images to features: every image goes through every network once, a batch at a time, and its features to files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ratlip_cli.errors import WeightsError
from ratlip_cli.evaluation.feature_file import FeatureFile, feature_writer, kept_features
from ratlip_cli.evaluation.images import Images
from ratlip_cli.evaluation.inputs import Inputs
from ratlip_cli.evaluation.networks import FeatureNetwork, Networks
from ratlip_cli.files import whole_file
from ratlip_cli.progress import Progress

_log = logging.getLogger(__name__)


class Features(NamedTuple):
    """What the networks made of the images."""

    fake: Mapping[str, FeatureFile]  # By the name of each network.
    real: FeatureFile | None  # By the network for FID, KID, precision and recall.
    seconds: Mapping[str, float]  # What each network took, by its name.


def extract(inputs: Inputs, networks: Networks, batch_size: int | None, scratch: Path, progress: Progress) -> Features:
    """Features of the generated images by all networks, and of the real ones by the network that compares them.

    Those of the real images are kept beside the images under the fingerprint of all that decides them.

    Args:
        batch_size: images at a time; 16 on a CPU and 64 elsewhere if left out.
        scratch: folder for the other features; it must outlive the result.
    """
    by_name = networks.by_name()
    run = _Run(batch_size or (16 if networks.device.type == "cpu" else 64), progress, dict.fromkeys(by_name, 0.0))
    real: FeatureFile | None = None
    if networks.features is not None and inputs.real is not None:
        real = run.real_features(inputs.real, networks.features, scratch)
    paths = [scratch / f"fake{number}.npy" for number in range(len(by_name))]
    run.write(paths, inputs.fake, list(by_name.values()), "generated images")
    return Features(dict(zip(by_name, map(FeatureFile, paths), strict=True)), real, run.seconds)


@dataclass(frozen=True)
class _Run:
    """What all passes over images share."""

    batch_size: int
    progress: Progress
    seconds: dict[str, float]

    def real_features(self, images: Images, network: FeatureNetwork, scratch: Path) -> FeatureFile:
        """The features that were kept where they fit, else new ones; with a note where others are in their place."""
        decisive = f"{images.fingerprint} {network.fingerprint} {network.resize}"
        cache = images.cache if images.cache is not None and os.access(images.cache.parent, os.W_OK) else scratch
        path = cache / f"{hashlib.sha256(decisive.encode()).hexdigest()[:16]}.npy"
        if path.is_file():
            with contextlib.suppress(OSError):
                kept = kept_features(path, len(images), network.dimensions, decisive)
                if kept is not None:
                    return kept
            _log.info("%s does not hold what this ratlip keeps there: the features are computed again", path)
        with whole_file(path) as partial:
            self.write([partial], images, [network], "real images", decisive)
        return FeatureFile(path)

    def write(
        self, paths: Sequence[Path], images: Images, networks: Sequence[FeatureNetwork], what: str, decisive: str = ""
    ) -> None:
        """Write the features of all images, a file for each network. Raises WeightsError for those not finite."""
        with contextlib.ExitStack() as stack:
            appends = [
                stack.enter_context(feature_writer(path, len(images), network.dimensions, decisive))
                for path, network in zip(paths, networks, strict=True)
            ]
            done = 0
            self.progress(what, done, len(images), "images")
            for batch in images.batches(self.batch_size):
                for network, append in zip(networks, appends, strict=True):
                    started = time.perf_counter()
                    features = network(batch)
                    if not features.isfinite().all():
                        raise WeightsError(
                            f"{network.name} makes features that are not numbers of the {what}: its weights are "
                            "broken; get them again."
                        )
                    append(features)
                    self.seconds[network.name] += time.perf_counter() - started
                done += len(batch)
                self.progress(what, done, len(images), "images")
