"""A model to the Hugging Face Hub: its model folder, a card made from its run, and a grid of samples."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.files import scratch_folder, write_text
from ratlip_cli.outputs import save_grid
from ratlip_cli.progress import Progress, silent
from ratlip_cli.samples import Sample
from ratlip_cli.sampling import generate
from ratlip_cli.setting import last_name, without_folders
from ratlip_cli.tensor_files import load_tensors_and_metadata
from ratlip_cli.weights.card import Scores, data_licence, may_be_shown, model_card, read_scores
from ratlip_cli.weights.clip_files import public_name
from ratlip_cli.weights.hub import check_repository, push
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import (
    CARD_FILE,
    CLIP_FOLDER,
    GENERATOR_FILE,
    SAMPLES_FILE,
    Model,
    ModelConfig,
    files_of,
    fingerprint_of,
    model_fingerprint,
    save_half,
    write_model_config,
)

SCORES_FILE = "scores.json"  # Where a run folder keeps what `ratlip evaluate --out` wrote.

SAMPLES = 4  # Images of each prompt on the card.

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """What to publish, where and how."""

    model: str  # A model folder or a run folder, see `load_model`.
    repository: str  # owner/name; made where there is none.
    private: bool = False  # Make the repository private; one that is public already is refused.
    revision: str | None = None  # A branch, made where there is none; left out, `main`.
    licence: str | None = None  # Of the weights, as the Hub calls it: `cc-by-4.0`; left out, that of the training data.
    scores: Path | None = (
        None  # What `ratlip evaluate --out` wrote of it; left out, the run folder's SCORES_FILE, if any.
    )
    prompts: Sequence[str] = ()  # Of the card's images; left out, those of the run's samples.
    half: bool = False  # Store the weights as float16.
    dry_run: bool = False  # Make everything, upload nothing.


@dataclass(frozen=True)
class Published:
    """What was published, or, after a dry run, would be."""

    model: str | None  # owner/name@commit: what gets exactly this model. None after a dry run, as is `url`.
    url: str | None  # The commit's page.
    fingerprint: str  # Of the model, as its weights are stored there.
    repository: str
    dry_run: bool
    files: dict[str, int]  # Sizes in bytes, by name.
    card: str  # The model card, Markdown.


def publish(request: Publication, progress: Progress = silent) -> Published:
    """Upload a model with its card in one commit. No path of this machine goes with it.

    Raises:
        UsageError: `repository` is not owner/name, no such model, or a file that holds no scores. WeightsError: the
            model cannot be loaded or is on a CLIP that nobody has, the scores are another one's, or what the Hub
            refused and what to do about it.
    """
    check_repository(request.repository, request.revision)
    _check_licence(request.licence)
    model = load_model(request.model)
    scores = _scores(request, model)
    config = replace(_without_paths(model.config), clip=_public_clip(model.config))
    prompts = request.prompts or [str(prompt) for prompt in config.training.get("prompts", [])]
    may_show = may_be_shown(data_licence(config))
    with scratch_folder() as folder:
        if may_show and prompts:
            _save_samples(model, request.repository, prompts, folder / SAMPLES_FILE, progress)
        write_model_config(folder, config)
        if request.half:
            save_half(model.folder, folder)
        if fingerprint_of(model.folder) != model.fingerprint:
            raise WeightsError(f"{request.model} got other weights while its card was made: push it again.")
        files = files_of(model.folder) | files_of(folder)
        if not may_show:
            files.pop(SAMPLES_FILE, None)
        weights, metadata = load_tensors_and_metadata(files[GENERATOR_FILE])
        fingerprint, step, shown = model_fingerprint(weights, config), metadata.get("step"), SAMPLES_FILE in files
        _warn_of_unfinished(request.model, step, config.training.get("settings", {}).get("steps"))
        card = model_card(
            config, fingerprint, step, request.repository, request.licence, scores, shown, request.revision
        )
        write_text(folder / CARD_FILE, card)
        files[CARD_FILE] = folder / CARD_FILE
        sizes = {name: path.stat().st_size for name, path in files.items()}
        name, url = None, None
        if not request.dry_run:
            name, url = push(files, request.repository, request.private, request.revision)
    return Published(name, url, fingerprint, request.repository, request.dry_run, sizes, card)


def _check_licence(licence: str | None) -> None:
    """Raise UsageError for what the Hub does not take for a licence, before anything is made there."""
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        usual = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-") or "other"
        raise UsageError(
            f"--license is '{licence}'; the Hub writes licences in small letters, digits, '.' and '-': '{usual}'?"
        )


def _public_clip(config: ModelConfig) -> str:
    """The CLIP as others find it. Raises WeightsError where they cannot."""
    clip = config.clip if config.clip == CLIP_FOLDER else public_name(config.clip)
    if clip is None:
        name, colon, file = config.clip.partition(":")
        raise WeightsError(
            f"the model was trained on CLIP {last_name(name)}{colon}{last_name(file)}, which nobody could download: "
            f"train on one of open_clip, NAME:PRETRAINED, or on one that is stored with the model, in {CLIP_FOLDER}/."
        )
    return clip


def _warn_of_unfinished(model: str, step: str | None, steps: object) -> None:
    if isinstance(steps, int) and (step or "").isdecimal() and int(step or 0) < steps:
        logger.warning("%s was trained for %s of its %s steps", model, step, steps)


def _scores(request: Publication, model: Model) -> Scores | None:
    """The scores of this model; those of another one are an error where they were asked for, else left out."""
    path = request.scores or Path(request.model) / SCORES_FILE
    if request.scores is None and not path.is_file():
        return None
    scores = read_scores(path)
    if scores.model_fingerprint == model.fingerprint:
        return scores
    message = f"the scores in {path} are of model {scores.model_fingerprint}, this one is {model.fingerprint}"
    if request.scores is not None:
        raise WeightsError(f"{message}: score it again with `ratlip evaluate --out`.")
    logger.warning("%s: they are left out", message)
    return None


def _save_samples(model: Model, name: str, prompts: Sequence[str], path: Path, progress: Progress) -> None:
    """Write the card's images, which are said to be of the model `name`: what it is called here may be a path."""
    samples: list[Sample] = []
    progress("generate", 0, len(prompts) * SAMPLES, "images")
    for sample in generate(model, prompts, SAMPLES):
        samples.append(replace(sample, model=name))
        progress("generate", len(samples), len(prompts) * SAMPLES, "images")
    save_grid(path, samples)


def _without_paths(config: ModelConfig) -> ModelConfig:
    """The config with the last names alone of files and folders of this machine."""
    training = dict(config.training)
    data = dict(training.get("data", {}))
    dataset = str(training.get("dataset", ""))
    for name in ("name", "source"):
        said = str(data.get(name, ""))
        if "://" not in said and (Path(said).is_absolute() or (said == dataset and last_name(said) != said)):
            data[name] = last_name(said) if name == "name" else "own images"
    if dataset:
        training["dataset"] = last_name(dataset)
    if data:
        training["data"] = data
    if "settings" in training:
        training["settings"] = without_folders(training["settings"], config.family.weights)
    return replace(config, training=training)
