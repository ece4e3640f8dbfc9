"""From what a user types after --model to a loaded model."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch

from ratlip_cli.errors import UsageError, WeightsError, no_such_model, unknown_name
from ratlip_cli.file_kinds import tensor_metadata
from ratlip_cli.setting import RUNS, check_export
from ratlip_cli.weights.model_folder import CONFIG_FILE, GENERATOR_FILE, Model, file_of, load_folder
from ratlip_cli.weights.not_models import MODEL_IN_RUN, what_it_is

DEMO = "ratlip-demo"
_DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"


def find_model(spec: str) -> Path:
    """The model folder meant by a model folder, a run folder, `owner/name[@revision]` or `ratlip-demo`.

    A checkpoint of a run is a model folder too, see `model_folder.file_of`.

    Raises WeightsError or UsageError where there is none.
    """
    return locate_model(spec)[1]


def default_model() -> str:
    """The newest run in runs/ whose generator was trained a step, else `ratlip-demo`."""
    runs = [run for run in _runs_with_generator() if _is_trained(run)]
    return str(runs[-1]) if runs else DEMO


def load_model(spec: str, device: str | torch.device = "cpu") -> Model:
    """Load a model for sampling. See `find_model` for `spec`."""
    name, folder = locate_model(spec)
    return load_folder(folder, device, name)


def open_export(folder: str, device: str, precision: str) -> Model:
    """A folder of `ratlip export` as a model that is scored. Raises RatlipError where it cannot be; see its loader."""
    from ratlip_cli.weights.export.scored import load_exported

    check_export(device, precision)
    return load_exported(Path(folder))


def pull_model(name: str, fingerprint: str | None = None) -> Model:
    """Download a model `owner/name[@revision]` of the Hugging Face Hub and its CLIP, and load it once.

    Raises UsageError where the name is none of the Hub; WeightsError, which says what keeps it from being downloaded or
    loaded, or that its fingerprint is another one than `fingerprint`.
    """
    from ratlip_cli.weights.hub import download, is_hub_name, pinned_name

    if not is_hub_name(name):
        raise UsageError(f"'{name}' is not a name on the Hugging Face Hub: use owner/name or owner/name@revision.")
    folder = download(name)
    model = load_folder(folder, name=pinned_name(name, folder))
    if fingerprint not in (None, model.fingerprint):
        raise WeightsError(
            f"{model.name} has fingerprint {model.fingerprint}, not {fingerprint}: it is another model; name the right "
            "revision."
        )
    return model


def locate_model(spec: str) -> tuple[str, Path]:
    """The name that records give, with the commit of a model of the Hub, and the model folder. See `find_model`."""
    folder = Path(spec)
    if spec == DEMO and not folder.exists():
        if not (_DEMO_FOLDER / GENERATOR_FILE).is_file():
            raise WeightsError(
                f"{DEMO} is not bundled with this version: train a model with `ratlip train` or name one with --model."
            )
        return DEMO, _DEMO_FOLDER
    for candidate in (folder / MODEL_IN_RUN, folder):
        if file_of(candidate, CONFIG_FILE).is_file():
            return spec, candidate
    if folder.exists():
        raise WeightsError(what_it_is(folder))
    from ratlip_cli.weights.hub import download, is_hub_name, pinned_name

    runs = [str(run) for run in _runs_with_generator()]
    if is_hub_name(spec) and folder.parts[0] != RUNS.name and not folder.parent.is_dir():
        try:
            snapshot = download(spec)
        except WeightsError as error:  # perhaps a misspelled path
            local = [str(config.parent) for config in Path().glob(f"*/*/{CONFIG_FILE}")]
            near = difflib.get_close_matches(spec, [*runs, *local], n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise WeightsError(f"there is no folder {spec} here{hint} On the Hugging Face Hub: {error}") from error
        return pinned_name(spec, snapshot), snapshot
    if len(folder.parts) > 1:
        raise no_such_model(spec, runs)
    raise unknown_name("model", spec, [DEMO, *runs])


def _runs_with_generator() -> list[Path]:
    """Runs in ./runs, oldest first by their generator."""
    generators = RUNS.glob(f"*/{MODEL_IN_RUN}/{GENERATOR_FILE}")
    return [path.parent.parent for path in sorted(generators, key=lambda path: path.stat().st_mtime)]


def _is_trained(run: Path) -> bool:
    """Whether the generator is another than at the beginning of the run, when it is saved first."""
    return tensor_metadata(run / MODEL_IN_RUN / GENERATOR_FILE).get("step") != "0"  # a damaged one is told when loaded
