"""ratlip in Python: the face of `import ratlip_cli as ratlip`. Its functions are those that the command line calls.

>>> import ratlip_cli as ratlip
>>> model = ratlip.load_model("ratlip-demo")
>>> images = model.generate("a red bird with black wings", n=2)
>>> images
<2 images of 64 x 64 pixels by ratlip-demo: 'a red bird with black wings'>
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from ratlip_cli.device import resolve_device
from ratlip_cli.editing.edit import edit
from ratlip_cli.editing.request import EditRequest
from ratlip_cli.errors import UsageError
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.evaluation.run import evaluate
from ratlip_cli.explain.gradcam.run import gradcam
from ratlip_cli.explain.latent.run import latent_view
from ratlip_cli.explain.request import GradCamRequest, LatentRequest
from ratlip_cli.generation import PRECISIONS
from ratlip_cli.grids import captioned_grid
from ratlip_cli.outputs import ImageFolder
from ratlip_cli.samples import Sample
from ratlip_cli.sampling import generate
from ratlip_cli.setting import check_choice
from ratlip_cli.training.settings import TrainSettings, checked, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import StepRecord
from ratlip_cli.weights import load, model_folder

__all__ = [
    "EditRequest",
    "EvaluationRequest",
    "GradCamRequest",
    "Images",
    "LatentRequest",
    "Model",
    "Run",
    "edit",
    "evaluate",
    "gradcam",
    "latent_view",
    "load_model",
    "train",
]


class Images(Sequence[Sample]):
    """Generated images in their order; a notebook shows them as a captioned grid."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = list(samples)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Sample | Images:
        return Images(self._samples[index]) if isinstance(index, slice) else self._samples[index]

    def __repr__(self) -> str:
        if not self._samples:
            return "<0 images>"
        first = self._samples[0]
        prompts = list(dict.fromkeys(sample.prompt for sample in self._samples))
        more = f" and {len(prompts) - 1} more prompts" if len(prompts) > 1 else ""
        width, height = first.image.size
        count = f"{len(self)} image{'s' if len(self) > 1 else ''}"
        return f"<{count} of {width} x {height} pixels by {first.model}: '{prompts[0]}'{more}>"

    def _repr_png_(self) -> bytes | None:
        if not self._samples:
            return None
        rows: dict[str, list[Sample]] = {}
        for sample in self._samples:
            rows.setdefault(sample.prompt, []).append(sample)
        shown = io.BytesIO()
        captioned_grid([(prompt, [one.image for one in row]) for prompt, row in rows.items()]).save(shown, "PNG")
        return shown.getvalue()

    def save(self, folder: str | Path, format: str = "png") -> list[Path]:
        """Write every image as `ratlip generate` does, with its record; nothing is replaced. Returns the files.

        Args:
            folder: made where it does not exist.
            format: png, jpg or webp.

        Raises RatlipError where the folder cannot be written.
        """
        files = ImageFolder(Path(folder), format)
        return [files.save(sample) for sample in self._samples]


class Model(model_folder.Model):
    """A loaded model that generates."""

    def generate(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        seed: int = 0,
        truncation: float = 1.0,
        best_of: int = 1,
        batch_size: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Images:
        """Generate `n` images of each prompt; image k depends on the model, the prompt, the seed and k alone.

            >>> model = load_model("ratlip-demo")
            >>> [sample.index for sample in model.generate("a yellow flower", n=3)]
            [0, 1, 2]

        Args:
            prompts: one prompt, or several, which share their noise vectors.
            truncation: psi, by which noise is scaled, or LAFITE's w moved towards its average; below 1 images are more
                alike.
            best_of: generate this many times `n`, and keep those of highest CLIP similarity, best first.
            batch_size: images at a time; left out, as suits it, and on a CPU the same bits whatever else is made.
            indices: the images k, instead of the first `n`.

        Raises UsageError for an empty prompt or numbers out of range.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        return Images(list(generate(self, asked, n, seed, truncation, best_of, batch_size, indices)))

    def __repr__(self) -> str:
        config = self.config.generator
        return (
            f"<Model {self.name}: {config.variant}, {config.image_size} pixels, {self.fingerprint}, on {self.device}>"
        )


def load_model(name: str | Path = load.DEMO, device: str | torch.device = "cpu", precision: str = "auto") -> Model:
    """Load a model for sampling.

        >>> load_model("ratlip-demo")
        <Model ratlip-demo: ratlip, 64 pixels, ..., on cpu>

    Args:
        name: a run folder, a model folder, `owner/name[@revision]` on the Hugging Face Hub, or `ratlip-demo`.
        device: where it computes: auto, cpu, cuda, cuda:N or mps.
        precision: arithmetic of its images: fp32, bf16, or auto, which is fp32.

    Raises WeightsError where there is none, or it is damaged; DeviceError for a device that is not there; UsageError
    for a precision that is not known.
    """
    check_choice("precision", precision, PRECISIONS)
    loaded = load.load_model(str(name), resolve_device(str(device))).in_precision(precision)
    return Model(
        loaded.name, loaded.folder, loaded.config, loaded.generator, loaded.clip, loaded.fingerprint, loaded.precision
    )


@dataclass(frozen=True)
class Run:
    """A training run that has ended."""

    folder: Path  # The run folder.
    steps: int  # Steps done.
    finished: bool  # Whether the last step is done; else train again with `resume`.
    last: StepRecord | None  # The last step's record; None where there was nothing left to do.

    def model(self, device: str | torch.device = "cpu") -> Model:
        """Its newest model."""
        return load_model(self.folder, device)


def train(
    settings: TrainSettings | Mapping[str, Any],
    config: str | None = None,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train a model.

        >>> train({"dataset": "my-images", "steps": 2000}, config="small").model()  # doctest: +SKIP

    Args:
        settings: the options of `ratlip train` by their names with underscores, over the preset of the dataset.
        config: a TOML file or a preset, under `settings`.
        on_step: called with the record of every step.
        should_stop: asked before every step; the run is saved and can be resumed. Ctrl-C leaves the newest checkpoint.

    Raises RatlipError like `ratlip train`: for settings that cannot be, data or weights that cannot be used.
    """
    if not isinstance(settings, TrainSettings):
        texts = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        settings = resolve_settings(checked("settings", texts), config)
    elif config is not None:
        raise UsageError("give either TrainSettings or a config, not both.")
    session = open_session(settings)
    last = None
    for last in session.run(should_stop):
        on_step(last)
    return Run(session.folder.path, session.trainer.steps_done, session.finished, last)
