"""Scores during training, by the code of `ratlip evaluate`, and the best model so far.

best/                 a model folder with the best EMA of the generator
  evaluation.json     its step, its scores and how they were made
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.errors import DataError, RatlipError
from ratlip_cli.evaluation.inputs import by_captions, model_inputs
from ratlip_cli.evaluation.networks import load_networks
from ratlip_cli.evaluation.request import DEFAULT_METRICS, EvaluationRequest
from ratlip_cli.evaluation.run import LEAST, Evaluation, score_inputs
from ratlip_cli.files import write_text
from ratlip_cli.json_files import read_json
from ratlip_cli.progress import Stopped
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.weights.model_folder import Model, fingerprint_of

RESULT_FILE = "evaluation.json"


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far."""

    step: int
    metric: str  # The Fréchet distance that decides, by its name.
    value: float


class Validation:
    """Scores a run's model on the test split.

    Args:
        settings: of the run.
        dataset: the training split; the test split beside it is what is scored on.
        model: the EMA of the generator as a model; its weights move on while the run does.

    Raises:
        DataError: the dataset has no test split, or one of a single image. WeightsError: a network's weights could not
            be downloaded.
    """

    def __init__(self, settings: TrainSettings, dataset: CaptionedImages, model: Model) -> None:
        weights = Path(settings.inception_weights) if settings.inception_weights else None
        self._model = model
        self._images = CaptionedImages(dataset.path, "test", settings.image_size)
        if len(self._images) < LEAST:
            raise DataError(
                f"{dataset.path} has one test image, and scores take at least {LEAST}: prepare it with a larger "
                "--test-fraction, or leave --eval-every out."
            )
        self._by_captions = settings.reads_captions and by_captions(self._images, model.family)
        metrics = DEFAULT_METRICS if self._by_captions else ("fid",)
        self._request = EvaluationRequest(
            metrics=metrics, captions_per_image=settings.eval_captions, inception_weights=weights
        )
        self._networks = load_networks(self._request, model.device, model)

    def evaluate(self, folder: Path, should_stop: Callable[[], bool]) -> Evaluation | None:
        """Score the model, which is saved in the model folder `folder`; None where `should_stop` became true.

        Of several processes each must call it; whether to stop is asked in the first one.
        """

        def stop(what: str, done: int, total: int | None, unit: str) -> None:
            if should_stop():
                raise Stopped

        model = replace(self._model, folder=folder, fingerprint=fingerprint_of(folder))
        inputs = model_inputs(model, self._images, self._request, self._by_captions)
        try:
            return score_inputs(inputs, self._request, self._networks, stop)
        except Stopped:
            return None


def deciding_score(evaluation: Evaluation) -> tuple[str, float]:
    """Name and value of the metric whose least value is the best model: the Fréchet distance."""
    score = evaluation.score("fid")
    return score.name, score.value


def write_best(folder: Path, step: int, evaluation: Evaluation) -> None:
    """Note in the model folder `folder` how good its model is."""
    content = asdict(Best(step, *deciding_score(evaluation))) | {"evaluation": evaluation.scores_record()}
    write_text(folder / RESULT_FILE, json.dumps(content, indent=2) + "\n")


def read_best(folder: Path) -> Best | None:
    """How good the best model is, None where none was noted. Raises RatlipError where the note is damaged."""
    path = folder / RESULT_FILE
    try:
        content = read_json(path)
        best = Best(int(content["step"]), str(content["metric"]), float(content["value"]))
        if not math.isfinite(best.value):
            raise ValueError(f"{best.metric} is {best.value}")
        return best
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RatlipError(f"{path} is damaged ({error}); remove it to begin again with the next evaluation.") from error
