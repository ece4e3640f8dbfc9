"""Run folders with scores, as a sweep leaves them, but for their networks: made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ratlip_cli.evaluation.statistics import Moments, frechet_distance
from ratlip_cli.experiments.ledger import DONE, VALUES_FILE, Entry, digest_of, write_entry
from ratlip_cli.files import sha256_of
from ratlip_cli.training.settings import TrainSettings

IMAGES, DIMENSIONS = 40, 3
REAL = np.random.default_rng(0).normal(0, 1, (IMAGES, DIMENSIONS)).astype(np.float32)
"""Features of the real images."""


def distance(features: NDArray[np.float32]) -> float:
    """The Fréchet distance to the real images."""
    return frechet_distance(*(Moments(rows.mean(0, np.float64), np.cov(rows.T)) for rows in (features, REAL)))


def make_run(sweep: Path, row: str, variant: str, seed: int, shift: float) -> Entry:
    """A run folder whose images score `shift` more than the others'."""
    random = np.random.default_rng([7, seed])
    captions = np.random.default_rng(7).normal(0, 1, IMAGES)  # some are harder than others, for every run
    own = np.random.default_rng([seed, len(row)])
    values = {
        "clip-score": (50 + shift + captions + random.normal(0, 0.3) + own.normal(0, 0.3, IMAGES)).astype(np.float32),
        "features": (own.normal(0, 1, (IMAGES, DIMENSIONS)) + 2 - shift / 2).astype(np.float32),
    }
    run = sweep / f"{row}-seed{seed}"
    (run / "model").mkdir(parents=True)
    (run / "model" / "generator.safetensors").write_bytes(b"weights")
    settings = TrainSettings.of(dataset="demo-birds", variant=variant, seed=seed, steps=100, batch_size=16)
    (run / "config.toml").write_text(settings.to_toml(), encoding="utf-8")
    save_file(values, run / VALUES_FILE)
    flat = settings.flat()
    entry = Entry(
        row=row,
        seed=seed,
        run=run.name,
        state=DONE,
        reason=None,
        settings=flat,
        settings_digest=digest_of(flat),
        steps=100,
        images_shown=1600,
        protocol={"metrics": ["fid", "clip-score"], "limit": 40},
        scores={"clip-score": float(values["clip-score"].mean()), "fid": distance(values["features"])},
        files={name: sha256_of(run / name) for name in ("model/generator.safetensors", VALUES_FILE)},
    )
    write_entry(run, entry)
    return entry
