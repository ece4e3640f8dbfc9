"""How a run begins or goes on: from settings to an open session."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratlip_cli import __version__, processes
from ratlip_cli.data.dataset import CaptionedImages, caption_notes, text_vectors
from ratlip_cli.data.of_run import note_dataset
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.data.request import is_stream
from ratlip_cli.data.stream import StreamedImages
from ratlip_cli.distributed import World, join, own_device, world
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.family import Family
from ratlip_cli.files import check_out_folder
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.progress import Progress, silent
from ratlip_cli.setting import RUNS
from ratlip_cli.tensor_files import fingerprint, save_tensors
from ratlip_cli.training.checkpoint import (
    Checkpoint,
    Identity,
    newest_checkpoint,
    read_checkpoint,
    resume,
    save_checkpoint,
)
from ratlip_cli.training.init_from import find_start, start_from
from ratlip_cli.training.run_folder import RunFolder, is_of_launch
from ratlip_cli.training.run_paths import (
    images_of_run,
    is_last,
    is_unscored,
    kept_dataset,
    kept_file,
    list_checkpoints,
    step_of,
    steps_logged,
)
from ratlip_cli.training.session import TrainingSession, sample_prompts
from ratlip_cli.training.settings import (
    AUTO,
    TrainSettings,
    already_there,
    check_beginning,
    parse_duration,
    read_settings,
    run_of,
    settings_of_run,
)
from ratlip_cli.training.trackers import import_for
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.training.validation import Validation
from ratlip_cli.weights.clip_files import BUNDLED, check_clip, load_clip
from ratlip_cli.weights.model_folder import CONFIG_FILE, Model, create_model_folder, model_config

_NOT_READ = "no caption is looked at: CLIP's vectors of the images stand in"
ENCODED_AT_ONCE = 256  # Captions whose conditions are computed at once.

_CANNOT_START_AGAIN = (
    "with --rdzv-backend c10d, torchrun surely starts several machines again only where --rdzv-id is given and "
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set on each"
)


def open_session(
    settings: TrainSettings, tell: Callable[[str], None] = lambda line: None, progress: Progress = silent
) -> TrainingSession:
    """Read the data, load the CLIP, build the networks or resume them, and open the run folder.

    Args:
        tell: called with lines about what was found, such as a damaged checkpoint that was passed over.
        progress: called while a dataset is prepared that was not before.

    Raises:
        UsageError: `settings.out` exists, or a newer checkpoint than the one to resume does.
        DataError: no such dataset, or it has changed since the checkpoint.
        WeightsError: a CLIP or checkpoint is missing, damaged or does not fit.
        DeviceError: the device is not there.
        DistributedError: another one of several processes has ended or does not come.

    Of several processes, which torchrun started, each must call it; the first one alone writes.
    """
    device = own_device(settings.device)
    world = join(device, parse_duration(settings.dist_timeout))
    world.rows(settings.batch_size, *settings.shares)
    world.agree({"ratlip": __version__, "torch": torch.__version__, **settings.of_all_processes})
    launch = processes.launch() if world.is_first else ""
    settings = _after_restart(settings, launch, world)
    settings = found_by_settings(settings, tell, world)
    check_beginning(settings)
    world.said("place of the run", lambda: _writable_place(settings))
    if processes.cannot_start_again():
        tell(_CANNOT_START_AGAIN)
    begins = bool(settings.init_from) and not settings.resume
    start = world.in_turn(lambda: find_start(settings) if begins else None)
    before = settings_of_run(settings.resumed_run) if settings.resumed_run else settings
    with_files = with_kept_files(settings)
    dataset, clip = world.in_turn(lambda: open_inputs(with_files, device, progress))
    if start is not None:
        start.check_clip(clip)
    files = settings.family.files(with_files.objective_weights())
    of_files = {name: fingerprint(tensors) for name, tensors in files.items()}
    inputs = {"dataset": dataset.fingerprint, "CLIP": clip.fingerprint, **of_files}
    if isinstance(dataset, StreamedImages):
        inputs["workers"] = str(settings.workers)  # among which its shards are dealt
    world.agree(inputs)
    run, checkpoint = _where_all_start(settings, tell, world)
    if run is None and settings.out and Path(settings.out).exists():
        raise already_there(Path(settings.out))
    _tell_data(settings, dataset, clip, tell)
    if settings.clip in BUNDLED and clip.fingerprint != load_clip(settings.clip).fingerprint:
        tell(f"this version's {settings.clip} is another CLIP: the run goes on with its own copy, {clip.spec}")
    rows = world.in_turn(lambda: _rows(settings, dataset, clip))
    classes = dataset.classes if isinstance(dataset, CaptionedImages) else None
    captions = dataset.captions if isinstance(dataset, CaptionedImages) else ()
    trainer = Trainer(with_files, clip, rows, len(dataset), device, classes, captions)
    identity = Identity(settings.architecture, clip.fingerprint, dataset.fingerprint, of_files)
    if checkpoint is not None:
        resume(trainer, checkpoint, identity, before)
        tell(f"going on from {checkpoint.path}")
    elif settings.init_from:
        tell(start_from(start or find_start(settings), trainer))
    if world.size > 1:
        networks = {"generator": trainer.generator, "EMA": trainer.ema, "discriminator": trainer.discriminator}
        world.agree({f"weights of the {name}": fingerprint(net.state_dict()) for name, net in networks.items()})
    done = trainer.steps_done
    is_over = run is not None and done >= settings.total_steps(len(dataset), done, trainer.images_seen)
    lacking = run is not None and world.is_first and settings.eval_every and is_unscored(run, before, done)
    unscored = bool(world.largest(bool(lacking))[0])
    config = model_config(
        *settings.configs(), clip, training=_record(settings, dataset), features=features_of(settings)
    )
    validation = None
    if settings.eval_every and isinstance(dataset, CaptionedImages):
        model, images = Model("the run", Path(), config, trainer.ema, clip, fingerprint=""), dataset
        validation = world.in_turn(lambda: Validation(settings, images, model))
    if world.is_first:
        import_for(settings)
    world.wait()  # until all have read what the first one writes over
    folder = RunFolder(run) if run is not None else _made_by_first(settings, world)
    with _nothing_left_of(folder, is_new=run is None and world.is_first):
        branches_off = run is None and checkpoint is not None
        if world.is_first:
            if branches_off:  # before it looks like a run that can begin again
                save_checkpoint(folder.checkpoints, trainer, identity, settings.keep)
            folder.open(settings, done, launch, is_over, unscored)
        records = world.is_first and not is_over  # where no step remains, the records stay those of the steps done
        if records and isinstance(dataset, CaptionedImages):
            folder.keep_dataset(dataset)
            note_dataset(folder.path, dataset.path, dataset.fingerprint)
        for name, tensors in files.items() if records else ():
            save_tensors(kept_file(folder.path, name), tensors)
        session = TrainingSession(settings, dataset, trainer, identity, folder, done, validation, unscored=unscored)
        if world.is_first:
            if records or not (folder.model / CONFIG_FILE).is_file():
                create_model_folder(folder.model, config, clip)
            session.write_model()
    world.wait()
    return session


@contextlib.contextmanager
def _nothing_left_of(folder: RunFolder, is_new: bool) -> Iterator[None]:
    """Remove a run folder that is new where it could not be filled, or a signal came before it was."""
    try:
        yield
    except BaseException:
        if is_new:
            folder.close()
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _after_restart(settings: TrainSettings, launch: str, world: World) -> TrainSettings:
    """The settings; where torchrun has started the processes again, those of going on with the run that they began.

    Args:
        launch: `processes.launch`, in the first process.
    """
    run = world.said("run of this launch", lambda: str(_run_of_launch(settings, launch) or ""))
    return settings.replaced(resume=run) if run else settings


def found_by_settings(settings: TrainSettings, tell: Callable[[str], None], world: World) -> TrainSettings:
    """The settings; of `--resume auto`, those of going on with the run that it means, or of a new one.

    The run is looked for before its data and its CLIP, so that it goes on with those that it has, as by its path.
    """
    if settings.resume != AUTO:
        return settings
    run = world.said("run to go on with", lambda: str(_newest_unfinished(settings) or ""))
    if not run:
        if settings.out and Path(settings.out).exists():
            raise already_there(Path(settings.out), _unlike(Path(settings.out), settings))
        tell("no unfinished run of these settings: a new one begins")
    return settings.replaced(resume=run)


def _run_of_launch(settings: TrainSettings, launch: str) -> Path | None:
    """The newest run of these settings that earlier processes of this launch trained in, if any."""
    if not launch:
        return None
    if settings.out:
        candidates = [Path(settings.out)]
    else:
        candidates = [settings.resumed_run] if settings.resumed_run else list(RUNS.glob("*"))
    found = []
    for run in candidates:
        with contextlib.suppress(UsageError):  # no run folder, or one of another version
            if is_of_launch(run, launch) and settings_of_run(run).same_run(settings):
                found.append(run)
    return max(found, key=lambda run: (run / "config.toml").stat().st_mtime, default=None)


def _writable_place(settings: TrainSettings) -> str:
    """The folder that the run is, or comes into. Raises RatlipError where nothing can be written there."""
    place = settings.resumed_run or Path(settings.out or RUNS)
    check_out_folder(place)
    return str(place)


def _made_by_first(settings: TrainSettings, world: World) -> RunFolder:
    return RunFolder(Path(world.said("run folder", lambda: str(RunFolder.create(settings).path))))


def _where_all_start(
    settings: TrainSettings, tell: Callable[[str], None], world: World
) -> tuple[Path | None, Checkpoint | None]:
    """`_where_to_start`, as the first process finds it; the others read the same checkpoint."""
    if world.size == 1:
        return _where_to_start(settings, tell)
    found: list[tuple[Path | None, Checkpoint | None]] = []

    def find() -> str:
        found.append(_where_to_start(settings, tell))
        run, checkpoint = found[0]
        return json.dumps([run and str(run), checkpoint and str(checkpoint.path)])

    run, checkpoint = json.loads(world.said("where to start", find))
    return found[0] if found else (run and Path(run), checkpoint and read_checkpoint(Path(checkpoint)))


def _tell_data(
    settings: TrainSettings, dataset: CaptionedImages | StreamedImages, clip: FrozenCLIP, tell: Callable[[str], None]
) -> None:
    for line in settings.ignored:
        tell(line)
    if isinstance(dataset, StreamedImages):
        count = f"{len(dataset):,}" if len(dataset) else "an unknown number of"
        too = "" if settings.needs_captions else ", and images without one are taken too"
        told = f"captions are encoded as they come{too}" if settings.reads_captions else _NOT_READ
        tell(f"a stream of {len(dataset.shards):,} shards, {count} images; {told}")
        return
    if not settings.reads_captions:
        tell(f"{len(dataset):,} images; {_NOT_READ}")
    elif dataset.captions:
        tell(f"{len(dataset):,} images; their {len(dataset.captions):,} captions are encoded once and kept")
    if dataset.uncaptioned and settings.reads_captions:
        tell(f"{dataset.uncaptioned:,} of {len(dataset):,} images have no caption: CLIP's vectors of them stand in")
    left_out = sum("it has no caption" in problem.reason for problem in dataset.info.left_out)
    if left_out and not settings.needs_captions:
        tell(f"{left_out:,} more were left out for want of a caption; prepare them again with --keep-uncaptioned")
    for line in caption_notes(clip, dataset.captions if settings.reads_captions else []):
        tell(line)


def _rows(settings: TrainSettings, dataset: CaptionedImages | StreamedImages, clip: FrozenCLIP) -> Tensor | None:
    """What training keeps of every caption (captions,...); text vectors are kept beside the data too.

    Where images have no caption, a row of zeros comes last. Of a stream nothing is kept, nor where none is looked at.
    """
    family = settings.family
    if isinstance(dataset, StreamedImages) or not settings.reads_captions:
        return None
    if type(family).rows is Family.rows:
        none = torch.zeros(1 if dataset.uncaptioned else 0, clip.geometry.embed_dim)
        return torch.cat((text_vectors(dataset, clip), none)) if dataset.captions else none
    starts = range(0, len(dataset.captions), ENCODED_AT_ONCE)
    batches = (dataset.captions[start : start + ENCODED_AT_ONCE] for start in starts)
    return torch.cat([family.rows(clip, captions).cpu() for captions in batches])


def _record(settings: TrainSettings, dataset: CaptionedImages | StreamedImages) -> dict[str, Any]:
    """What config.json says of the training, for records and for the model card."""
    info = dataset.info
    captions = len(dataset.captions) if isinstance(dataset, CaptionedImages) and settings.reads_captions else 0
    return {
        "dataset": settings.dataset,
        "dataset_fingerprint": dataset.fingerprint,
        "data": {
            "name": info.name,
            "source": info.source,
            "licence": info.licence,
            "images": len(dataset),
            **({"captions": captions or "none"} if isinstance(dataset, CaptionedImages) else {}),
        },
        "prompts": sample_prompts(dataset) if settings.reads_captions else [],
        "settings": settings.recorded,
    }


def features_of(settings: TrainSettings) -> str:
    """What scores the model's images: `inception` or `clip`."""
    if settings.eval_features != "auto":
        return settings.eval_features
    return "clip" if settings.clip in BUNDLED else "inception"


def open_inputs(
    settings: TrainSettings, device: torch.device, progress: Progress
) -> tuple[CaptionedImages | StreamedImages, FrozenCLIP]:
    """The training split, prepared first where it was not before, and the CLIP, which may have to be downloaded."""
    clip = _kept_clip(settings)
    check_clip(clip)  # a misspelled one is told before data are prepared, as is a file that is not what it should be
    settings.family.files(settings.objective_weights())
    dataset = open_dataset(settings, progress)
    if settings.needs_captions and isinstance(dataset, CaptionedImages):
        dataset.check_captioned("train on images alone: --variant lafite --language-free")
    return dataset, load_clip(clip, device)


def open_dataset(settings: TrainSettings, progress: Progress) -> CaptionedImages | StreamedImages:
    """The training split, prepared first where it was not before, or the stream."""
    kept = kept_dataset(settings)
    if kept is None and is_stream(settings.dataset):
        return _stream(settings)
    folder = kept or resolve_dataset(
        settings.dataset,
        Path(settings.data_dir),
        settings.image_size,
        progress=progress,
        keep_uncaptioned=not settings.needs_captions,
    )
    return CaptionedImages(folder, "train", settings.image_size, settings.seed)


def _stream(settings: TrainSettings) -> StreamedImages:
    """The stream of the settings. Raises UsageError for what no stream can do."""
    if settings.eval_every:
        raise UsageError(
            "eval_every needs a test split, and a stream has none: leave it out, and score checkpoints on a prepared "
            "set by `ratlip evaluate --dataset`."
        )
    if settings.hard_negatives:
        raise UsageError(
            "hard_negatives exchanges words for others of all captions, and a stream's are not known before they come: "
            "leave it out, or prepare the images by `ratlip prepare`."
        )
    stream = StreamedImages(
        settings.dataset,
        settings.image_size,
        settings.seed,
        split=settings.split,
        caption_column=settings.caption_column,
        buffer=settings.shuffle_buffer,
        max_failed=settings.max_failed,
        images=settings.stream_images,
        needs_captions=settings.needs_captions,
    )
    stream.lanes(settings.workers, world().size)  # told before a run is begun
    if settings.epochs and not len(stream):
        raise UsageError(
            f"epochs cannot be counted: nothing says how many images {settings.dataset} has. Say it by "
            "--stream-images, or give --steps."
        )
    return stream


def with_kept_files(settings: TrainSettings) -> TrainSettings:
    """The settings; of files of their objective that are gone, the copies in the run that is resumed are taken."""
    run = settings.resumed_run
    if run is None:
        return settings
    before, copies = read_settings(run / "config.toml", own=True), {}
    for name, one in settings.family.weights.items():
        file, copy = str(settings.objective[name]), kept_file(run, name)
        if one.about.path and file == before.get(name) and not Path(file).exists() and copy.is_file():
            copies[name] = str(copy)
    return settings.replaced(**copies)


def _kept_clip(settings: TrainSettings) -> str:
    """The CLIP of the settings, or the copy in the run that is resumed.

    The copy is taken where the file or folder is gone, and where the CLIP is the bundled one, which another version of
    ratlip had other weights of.
    """
    run, (_, _, file) = settings.resumed_run, settings.clip.partition(":")
    if run is None or read_settings(run / "config.toml", own=True).get("clip") != settings.clip:
        return settings.clip
    copy = run / "model" / "clip"  # there where the CLIP is none of open_clip's
    there = settings.clip not in BUNDLED and (Path(settings.clip).exists() or (file and Path(file).exists()))
    return str(copy) if not there and copy.is_dir() else settings.clip


def _where_to_start(settings: TrainSettings, tell: Callable[[str], None]) -> tuple[Path | None, Checkpoint | None]:
    """The run folder to go on in, None for a new one; and the checkpoint to go on from, None for the beginning."""
    if not settings.resume:
        return None, None
    path = Path(settings.resume)
    run = run_of(path)
    checkpoints = list_checkpoints(run / "checkpoints")
    checkpoint: Checkpoint | None
    elsewhere = settings.out and Path(settings.out).resolve() != run.resolve()
    if path != run:
        checkpoint = read_checkpoint(path)
        if checkpoints and step_of(checkpoints[0]) > checkpoint.step and not elsewhere:
            raise UsageError(
                f"{path} is not the newest checkpoint of its run, {checkpoints[0].name} is; give an --out for a new "
                "run that goes on from it."
            )
    else:
        checkpoint, damaged = newest_checkpoint(checkpoints)
        for line in damaged:
            tell(line)
        if checkpoint is None and checkpoints:
            raise WeightsError(f"no checkpoint in {run} can be read; start a new run without --resume.")
        if checkpoint is None:
            _check_begun(run)
            tell(f"{run} has no checkpoint yet: it begins again with step 1")
    return None if elsewhere else run, checkpoint


def _check_begun(run: Path) -> None:
    """Raise WeightsError where a run without checkpoints has had some: its model is not to be overwritten."""
    steps = steps_logged(run)
    if steps > settings_of_run(run).save_every:
        raise WeightsError(
            f"{run} has done {steps} steps, and its checkpoints are gone: bring them back into {run / 'checkpoints'}, "
            f"or start a new run from its model with --init-from {shlex.quote(str(run))}."
        )


def _newest_unfinished(settings: TrainSettings) -> Path | None:
    """The run of the same settings that was written to last and whose last step is not saved."""
    candidates = [Path(settings.out)] if settings.out else list(RUNS.glob("*"))
    unfinished = []
    for run in candidates:
        try:
            own = settings_of_run(run)
        except UsageError:  # no run folder, or one of another version
            continue
        # A run asked for by name is found to be finished, not begun anew.
        if own.same_run(settings) and (settings.out or not _is_finished(run, own, settings)):
            unfinished.append(run)
    return max(unfinished, key=lambda run: (run / "config.toml").stat().st_mtime, default=None)


def _unlike(run: Path, settings: TrainSettings) -> list[str]:
    """The names of the settings that a run has others of; none where the folder is no run."""
    with contextlib.suppress(UsageError):
        return settings_of_run(run).unlike(settings)
    return []


def _is_finished(run: Path, own: TrainSettings, settings: TrainSettings) -> bool:
    """Whether the last step that the settings ask of a run is saved, and scored where it was to be."""
    newest = list_checkpoints(run / "checkpoints")[:1]
    images = 0 if settings.steps is not None else images_of_run(run)
    return any(
        is_last(checkpoint, settings, images) and not is_unscored(run, own, step_of(checkpoint))
        for checkpoint in newest
        if images or settings.steps is not None
    )
