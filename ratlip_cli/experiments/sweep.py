"""A sweep: the runs of a sweep file that are missing, each in a process of its own. Imports no torch by itself.

What is done is told by what lies in the run folders alone, so that a sweep goes on after any end of it, and several
calls share the work: each run has a lock, which ends with the process that holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ratlip_cli.data.request import check_dataset_name
from ratlip_cli.errors import DataError, DeviceError, RatlipError, UsageError
from ratlip_cli.experiments.ledger import (
    BROKEN,
    BROKEN_FILE,
    CHANGED,
    CONFIG_FILE,
    DONE,
    GENERATOR_FILE,
    LEDGER_FILE,
    OF_FEATURES,
    REAL_FEATURES_FILE,
    SCORES_FILE,
    SWEEP_FILE,
    VALUES_FILE,
    Entry,
    differences,
    digest_of,
    is_published,
    is_unfinished,
    read_entry,
    read_ledger,
    readable,
    write_ledger,
)
from ratlip_cli.experiments.protocol import unlike
from ratlip_cli.experiments.sweep_file import Run, Sweep, read_sweep
from ratlip_cli.files import (
    PARTIAL,
    check_out_folder,
    lock_descriptor,
    locked,
    sha256_of,
    whole_file,
    whole_folder,
    write_text,
    writing,
)
from ratlip_cli.json_files import read_json
from ratlip_cli.progress import Progress, silent
from ratlip_cli.setting import RUNS, check_count, check_device
from ratlip_cli.threads import MOST_THREADS, available_threads
from ratlip_cli.training.run_paths import step_of_model
from ratlip_cli.training.settings import TrainSettings, settings_of_run

BEGINS, STOPPED, ELSEWHERE = "begins", "stopped", "elsewhere"
"""What happens to a run while a sweep goes on, beside DONE and BROKEN; elsewhere: another process makes it."""

UNSCORED, BEGUN, MISSING = "unscored", "begun", "missing"
"""States of a run beside those of an entry: trained or scored by another protocol; with a run folder; without one."""

LOGS, LOCKS, LEDGER_LOCK, FIRST = "logs", ".locks", "ledger", "first"

MOST_JOBS = 8
"""Processes on a CPU where nobody says how many."""

_A_LOOK, _AGAIN = 0.05, 2.0
"""Seconds between two looks at the processes, and at runs that other processes make."""


@dataclass(frozen=True)
class SweepRequest:
    """What to sweep, and how."""

    file: Path
    out: Path | None = None  # The sweep folder; runs/ and the file's name without its ending if left out.
    device: str = "auto"
    data_dir: str = "data"
    jobs: int | None = None  # Runs at a time; one a GPU, or else one a core and at most MOST_JOBS, if left out.
    shard: str | None = None  # `i/n`: every n-th run alone, from the i-th on.
    retry_broken: bool = False
    take: Sequence[Path] = ()  # Other sweep folders: what was trained there as this file says is copied from them.

    def __post_init__(self) -> None:
        check_device(self.device)
        check_count("--jobs", self.jobs, most=MOST_THREADS)
        _ = self.part

    @property
    def folder(self) -> Path:
        """The sweep folder."""
        return self.out or RUNS / self.file.stem

    @property
    def part(self) -> tuple[int, int]:
        """Which part of how many the shard is, from 0; 0 of 1 for all. Raises UsageError where it is none."""
        if self.shard is None:
            return 0, 1
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard)
        number, of = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= of:
            raise UsageError(f"--shard is {self.shard}; give i/n with i from 1 to n, such as 1/4.")
        return number - 1, of


@dataclass(frozen=True)
class Event:
    """Something that happened to a run while a sweep goes on."""

    run: Run
    what: str  # BEGINS, DONE, BROKEN, STOPPED or ELSEWHERE.
    entry: Entry | None = None


class SweepFolder:
    """A sweep file and the folder of its runs.

    Raises:
        UsageError: the file or its dataset cannot be used; the folder is none of a sweep, or holds results without
            their runs; or the file was changed in what trained the runs that are there.
        DataError: the dataset is not there.
    """

    def __init__(self, request: SweepRequest) -> None:
        self.request = request
        self.path = request.folder
        check_out_folder(self.path)
        self.sweep: Sweep = read_sweep(request.file)
        check_dataset_name(self.sweep.runs[0].settings.dataset, Path(request.data_dir))
        if is_published(self.path):
            raise UsageError(
                f"{self.path} holds results whose run folders are not there, and a sweep would begin them all anew: "
                f"choose another --out, or remove its {LEDGER_FILE} and what lies in its run folders, where they are "
                "kept elsewhere."
            )
        others = _others(self.path)  # first: nothing is there before the sweep file is
        if (self.path / SWEEP_FILE).is_file():
            self._check_unchanged(read_sweep(self.path / SWEEP_FILE))
        elif others:
            raise UsageError(f"{self.path} exists and is no sweep folder; choose another --out.")

    def _check_unchanged(self, before: Sweep) -> None:
        trained = {run.name: run for run in before.runs if is_begun(self.path / run.name)}
        for run in self.sweep.runs:
            if run.name not in trained:
                continue
            if differing := differences(trained[run.name].settings.flat(), run.settings.flat()):
                config = self.sweep.config
                behind = "" if config is None else f", or the {config.name} that it names as its config,"
                raise UsageError(
                    f"{self.request.file}{behind} was changed since {self.path / run.name} was begun: {differing}. "
                    "Choose another --out for the changed sweep, or remove "
                    f"{self._run_alone(run.name)} to train it again."
                )

    def run(self, name: str) -> Run:
        """The run of that name. Raises UsageError where there is none."""
        for run in self.sweep.runs:
            if run.name == name:
                return run
        raise UsageError(f"{self.request.file} has no run '{name}'.")

    def placed(self, run: Run) -> TrainSettings:
        """The settings of a run where this sweep trains it: a new run folder, or the one that is there."""
        request, place = self.request, str(self.path / run.name)
        goes_on = is_begun(Path(place))
        machine = {"device": request.device, "data_dir": request.data_dir}
        return run.settings.replaced(**machine, **({"resume": place} if goes_on else {"out": place}))

    @property
    def ordered(self) -> list[Run]:
        """The runs of this call's shard in the order in which they are made: all rows with one seed, then the next."""
        seeds = list(dict.fromkeys(run.seed for run in self.sweep.runs))
        part, parts = self.request.part
        return sorted(self.sweep.runs, key=lambda run: seeds.index(run.seed))[part::parts]

    def left(self) -> list[Run]:
        """Those runs of `ordered` that are to be made now, this moment."""
        return [run for run in self.ordered if self.is_left(run)]

    def is_left(self, run: Run) -> bool:
        """Whether a run is to be made now, this moment."""
        state = self.state(run)[0]
        if state == BROKEN:
            return self.request.retry_broken or self._reason(run)[1]
        return state in (UNSCORED, BEGUN, MISSING)

    def state(self, run: Run) -> tuple[str, Entry | None]:
        """What lies in a run's folder, and its entry in the states DONE, BROKEN and CHANGED."""
        folder, wanted = self.path / run.name, run.settings.flat()
        try:
            entry = read_entry(folder)
        except DataError as error:
            return CHANGED, _without_scores(run, CHANGED, str(error))
        if entry is not None and is_unfinished(entry):
            entry = None  # `compare` may score a run that was stopped, which goes on here all the same
        if entry is not None and entry.state == DONE and (other := differences(entry.settings, wanted)):
            entry = replace(entry, state=CHANGED, reason=f"it was not trained as the sweep file says: {other}")
        if entry is not None and entry.state == CHANGED:
            return CHANGED, replace(entry, row=run.row, run=run.name)
        if entry is not None:
            asked = json.loads(json.dumps(asdict(self.sweep.protocol)))
            if asked == {name: entry.protocol.get(name) for name in asked}:
                return DONE, replace(entry, row=run.row, run=run.name)
        if (folder / BROKEN_FILE).is_file():
            return BROKEN, _without_scores(run, BROKEN, self._reason(run)[0])
        if entry is not None:
            return UNSCORED, None
        if not is_begun(folder):
            return MISSING, None
        try:
            if other := differences(wanted, settings_of_run(folder).flat()):
                return CHANGED, _without_scores(
                    run, CHANGED, f"its settings were changed before it was scored: {other}"
                )
        except UsageError as error:
            return CHANGED, _without_scores(run, CHANGED, str(error))
        return BEGUN, None

    def _reason(self, run: Run) -> tuple[str, bool]:
        """Why a run is broken, and whether it may go better the next time."""
        try:
            content = read_json(self.path / run.name / BROKEN_FILE)
            return str(content["reason"]), bool(content.get("again", False))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{BROKEN_FILE} is damaged", True

    def set_broken(self, run: Run, reason: str, again: bool) -> None:
        """Note in a run's folder why it failed, and whether the next call is to try it again unasked."""
        content = {"reason": reason, "again": again}
        write_text(self.path / run.name / BROKEN_FILE, json.dumps(content, indent=2) + "\n")

    def entries(self) -> list[Entry]:
        """The entries of all runs that have one, in the order of the file.

        Those whose data, CLIP or scoring are others than the first one's count as changed.
        """
        found = [entry for run in self.sweep.runs if (entry := self.state(run)[1]) is not None]
        first = next((entry for entry in found if entry.state == DONE), None)
        return [entry if first is None or entry.state != DONE else _compared(first, entry) for entry in found]

    def to_take(self) -> dict[str, Path]:
        """The run folders elsewhere that missing runs can be copied from, by the names here.

        A run can be taken from a sweep folder of the request where it is done there, its settings are those of this
        file, whatever its row is called, and its model folder has the weights of the last step; checkpoints are not
        needed. Raises DataError where one of the folders is no sweep folder.
        """
        sources = {
            run: next((place for place, whole in found if whole), None) for run, found in self._fitting().items()
        }
        return {run: place for run, place in sources.items() if place is not None}

    def not_taken(self) -> dict[str, Path]:
        """The run folders elsewhere that missing runs would be copied from if they had their finished models."""
        return {run: found[0][0] for run, found in self._fitting().items() if not any(whole for _, whole in found)}

    def nothing_in(self) -> list[Path]:
        """The folders to take runs from in which none is done that has the settings of one of this file."""
        runs = [run.settings.flat() for run in self.ordered]
        return [
            other
            for other in self.request.take
            if not any(
                not differences(entry.settings, run)
                for entry in read_ledger(other)
                if entry.state == DONE
                for run in runs
            )
        ]

    def _fitting(self) -> dict[str, list[tuple[Path, bool]]]:
        """Of missing runs, the run folders elsewhere with their settings, and whether the finished model is there."""
        known = [
            (other / entry.run, entry)
            for other in self.request.take
            for entry in read_ledger(other)
            if entry.state == DONE
        ]
        fitting: dict[str, list[tuple[Path, bool]]] = {}
        for run in self.ordered if known else ():
            wanted = run.settings.flat()
            found = [place for place, entry in known if not differences(entry.settings, wanted)]
            if found and self.state(run)[0] == MISSING:
                fitting[run.name] = [(place, is_trained(place, run.settings)) for place in found]
        return fitting

    def take(self) -> dict[str, Path]:
        """Copy the runs of `to_take`, to be scored here by this file's protocol; where each is from."""
        taken = {}
        for name, source in self.to_take().items():
            place = self.path / name
            with locked(self.lock_file(name)) as alone:
                if alone and self.state(self.run(name))[0] == MISSING:
                    remove_unbegun(place)
                    with whole_folder(place) as partial:
                        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=_NOT_TAKEN)
                    taken[name] = source
        return taken

    def check_evaluation(self, progress: Progress = silent) -> None:
        """Raise what scoring the runs would raise for want of data or networks, before any of them is trained.

        Nothing is looked at while another process does that, or prepares the dataset for its first run.
        """
        from ratlip_cli.experiments.score import check_scoring  # imports torch

        with locked(self.lock_file(FIRST)) if (self.path / LOCKS).is_dir() else contextlib.nullcontext(True) as alone:
            try:
                if alone:
                    settings, data_dir = self.sweep.runs[0].settings, Path(self.request.data_dir)
                    check_scoring(self.sweep.protocol, settings, data_dir, progress)
            except RatlipError as error:
                raise type(error)(f"{self.request.file}, evaluation: {error}") from error

    def score_again_for_real_features(self) -> str | None:
        """Where the features of the real images are missing or damaged: let a run be scored again, which writes them.

        Returns the name of the run, one of this call's shard; None where none is needed or none has features of its
        own, and where another run is made or is to be scored, which writes them.
        """
        path = self.path / REAL_FEATURES_FILE
        if readable(path) or any(map(self._is_about_to_be_scored, self.sweep.runs)):
            return None
        for run in self.ordered:
            state, entry = self.state(run)
            if state == DONE and entry is not None and {*OF_FEATURES} & {*entry.scores}:
                with locked(self.lock_file(run.name)) as alone:
                    if alone:
                        path.unlink(missing_ok=True)
                        (self.path / run.name / SCORES_FILE).unlink(missing_ok=True)
                        return run.name
        return None

    def _is_about_to_be_scored(self, run: Run) -> bool:
        state = self.state(run)[0]
        with locked(self.lock_file(run.name)) as alone:
            trained = state == BEGUN and is_trained(self.path / run.name, run.settings)
            return not alone or state == UNSCORED or trained

    def write_ledger(self) -> list[Entry]:
        """Write the ledger anew from what lies in the run folders, and return its entries."""
        while True:
            with locked(self.lock_file(LEDGER_LOCK)) as alone:
                if alone:
                    entries = self.entries()
                    write_ledger(self.path, entries)
                    return entries

    def open(self) -> None:
        """Make the folder where it is not there, and keep in it, before all else, the sweep file and its config."""
        config = None if self.sweep.config is None else self.sweep.config.content
        for name, content in ((CONFIG_FILE, config), (SWEEP_FILE, self.sweep.content)):
            kept = self.path / name
            if content is None:
                kept.unlink(missing_ok=True)
            elif not kept.is_file() or kept.read_bytes() != content:
                with whole_file(kept) as partial:
                    partial.write_bytes(content)
        for folder in (self.path / LOCKS, self.path / LOGS):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def remedy(self, entry: Entry, entries: Sequence[Entry]) -> str:
        """What to do about a run that counts as changed among `entries`."""
        place, first = self.path / entry.run, next((one for one in entries if one.state == DONE), None)
        if first is not None and self.state(self.run(entry.run))[0] == DONE and not _trained_otherwise(first, entry):
            return f"To score it again, remove {place / SCORES_FILE}; or those of the others, where theirs are older"
        if (first is None or not _trained_otherwise(first, entry)) and self._has_its_weights(entry):
            return f"To score it again, remove {place / SCORES_FILE}"
        return f"To train it again, remove {self._run_alone(entry.run)}"

    def _run_alone(self, name: str) -> str:
        """What is to be removed of a run: with its folder the ledger, where no other run has a training beside it."""
        others = any(is_begun(self.path / run.name) for run in self.sweep.runs if run.name != name)
        return f"{self.path / name}" if others else f"{self.path / name} and {self.path / LEDGER_FILE}"

    def _has_its_weights(self, entry: Entry) -> bool:
        """Whether what was changed of a run is not its training: the settings of this file, the weights scored."""
        place, run, weights = self.path / entry.run, self.run(entry.run), entry.files.get(GENERATOR_FILE)
        try:
            alike = not differences(settings_of_run(place).flat(), run.settings.flat())
        except UsageError:
            return False
        return alike and is_trained(place, run.settings) and weights in (None, sha256_of(place / GENERATOR_FILE))

    def lock_file(self, name: str) -> Path:
        """What a process that makes the run of that name, or writes the ledger, holds."""
        return self.path / LOCKS / f"{name}.lock"

    def log(self, run: Run) -> Path:
        """Where the process of a run writes what it has to say."""
        return self.path / LOGS / f"{run.name}.log"


_NOT_TAKEN = shutil.ignore_patterns(SCORES_FILE, VALUES_FILE, BROKEN_FILE)


def is_begun(folder: Path) -> bool:
    """Whether a run folder holds a training; a kill or a failure may leave one that does not."""
    return (folder / "config.toml").is_file()


def is_trained(folder: Path, settings: TrainSettings) -> bool:
    """Whether a run folder has the weights of its last step in its model folder."""
    return is_begun(folder) and 0 < (settings.steps or 0) <= step_of_model(folder)


def remove_unbegun(folder: Path) -> None:
    """Remove a run folder that a kill left before there was anything of the training in it.

    Raises DataError where it holds scores or other values of images, which are results of a training that is not there.
    """
    if not folder.exists() or is_begun(folder):
        return
    if kept := next(folder.rglob("*.safetensors"), None):
        raise DataError(f"{kept} is of a training that is not there; move it elsewhere to train the run anew.")
    shutil.rmtree(folder)


def _others(folder: Path) -> list[str]:
    """What lies in a folder and is not what a sweep begins with."""
    if folder.exists() and not folder.is_dir():
        return [folder.name]
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if name not in (LOCKS, LOGS, CONFIG_FILE) and not _is_temporary(name)]


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and (name.endswith(PARTIAL) or re.fullmatch(r"\.[0-9a-f]{32}", name) is not None)


def _without_scores(run: Run, state: str, reason: str) -> Entry:
    flat = run.settings.flat()
    return Entry(run.row, run.seed, run.name, state, reason, flat, digest_of(flat))


def _compared(first: Entry, entry: Entry) -> Entry:
    """The entry; CHANGED where its scores cannot stand beside those of `first`."""
    reason = _trained_otherwise(first, entry)
    if not reason and (names := unlike(first.protocol, entry.protocol)):
        reason = f"it was not scored as {first.run} was: {', '.join(names)} differ"
    return replace(entry, state=CHANGED, reason=reason) if reason else entry


def _trained_otherwise(first: Entry, entry: Entry) -> str:
    """In words, what of the data or the CLIP of a run is not that of `first`; empty where both are."""
    for what, one, other in (("data", first.data, entry.data), ("CLIP", first.clip, entry.clip)):
        there, here = one.get("fingerprint"), other.get("fingerprint")
        if there != here:
            return f"its {what} is not that of {first.run}: {there} there, {here} here"
    return ""


_Slot = Mapping[str, str]
"""A place for one process: what of its environment gives it its share of the machine."""


@dataclass
class _Active:
    """A run that a process of ours makes."""

    run: Run
    slot: _Slot
    process: subprocess.Popen[bytes]
    lock: contextlib.ExitStack


class _First:
    """Lets one run begin before all others: it makes what they share, the prepared dataset and its text vectors."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._lock = contextlib.ExitStack()
        self._held = self._is_over = False

    def lets_begin(self, active: int) -> bool:
        """Whether a run may begin beside so many that do."""
        if not self._is_over and any(is_begun(self._folder.path / run.name) for run in self._folder.sweep.runs):
            self._is_over = True
            self.close()
        if not self._is_over and not active and not self._held:
            with contextlib.ExitStack() as lock:
                if lock.enter_context(locked(self._folder.lock_file(FIRST))):
                    self._held, self._lock = True, lock.pop_all()
        return self._is_over or (self._held and not active)

    def close(self) -> None:
        """Let other calls begin."""
        self._lock.close()
        self._held = False


def gpus(device: str) -> list[str]:
    """The GPUs that runs on `device` share, as CUDA_VISIBLE_DEVICES names them; none for a device of its own or a CPU.

    Raises DeviceError where CUDA is asked for and PyTorch sees none.
    """
    if device not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    if not count and device == "cuda":
        raise DeviceError("device 'cuda' is not there: PyTorch sees no CUDA GPU. Use --device cpu.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = [name.strip() for name in visible.split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def slots(request: SweepRequest, runs: int) -> list[_Slot]:
    """The places for processes where so many runs are left, each with its share of threads and its GPU."""
    own = gpus(request.device)
    every = available_threads()
    asked = request.jobs or len(own) or (min(every, MOST_JOBS) if request.device in ("auto", "cpu") else 1)
    jobs = max(1, min(asked, runs))
    threads = {"OMP_NUM_THREADS": str(max(1, every // jobs))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": own[number % len(own)]} if own else {}) for number in range(jobs)]


def sweep(folder: SweepFolder, stops: Callable[[], int] = lambda: 0) -> Iterator[Event]:
    """Make the runs that are left, several at a time, and yield what happens.

    A run that fails is noted as broken, and the others go on. A run that another process makes is waited for, and
    made here where that process ends without it.

    Args:
        stops: how often somebody has asked to stop. After the first time no run begins and those that are being made
            save and end; after the second they end at once.

    Raises RatlipError where the sweep folder cannot be written.
    """
    waiting, elsewhere, told = deque(folder.left()), deque[Run](), set[str]()
    if not waiting:
        return
    free, active = slots(folder.request, len(waiting)), list[_Active]()
    sent, looked, first = 0, time.monotonic(), _First(folder)
    try:
        while active or ((waiting or elsewhere) and not stops()):
            if stops() > sent:
                sent = stops()
                for one in active:
                    _stop(one, at_once=sent > 1)
            if elsewhere and time.monotonic() - looked > _AGAIN:
                looked = time.monotonic()
                waiting.extend(elsewhere)
                elsewhere.clear()
            while waiting and free and not stops() and first.lets_begin(len(active)):
                run = waiting.popleft()
                with contextlib.ExitStack() as lock:
                    descriptor = lock.enter_context(lock_descriptor(folder.lock_file(run.name)))
                    if descriptor is None:
                        elsewhere.append(run)
                    elif folder.is_left(run):
                        slot = free.pop()
                        process = _started(folder, run, slot, descriptor)
                        active.append(_Active(run, slot, process, lock.pop_all()))
                        yield Event(run, BEGINS)
            for one in [one for one in active if one.process.poll() is not None]:
                active.remove(one)
                free.append(one.slot)
                event = _ended(folder, one, bool(sent))
                one.lock.close()
                yield event
            for run in [run for run in elsewhere if run.name not in told and not active]:
                told.add(run.name)
                yield Event(run, ELSEWHERE)
            time.sleep(_A_LOOK)
    finally:
        first.close()
        for one in active:
            _stop(one)
            one.lock.close()


def _started(folder: SweepFolder, run: Run, slot: _Slot, lock: int) -> subprocess.Popen[bytes]:
    """The process that makes a run: `ratlip sweep --only`. It holds the descriptor `lock` of the run's lock too.

    It saves and ends when its stdin does, be it that this process closes it or that it is no more. Ctrl-C in a terminal
    does not reach it.
    """
    request = folder.request
    command = [sys.executable, "-m", "ratlip_cli", "sweep", str(folder.path / SWEEP_FILE), "--out", str(folder.path)]
    command += ["--only", run.name, "--device", request.device, "--data-dir", request.data_dir]
    with writing(folder.log(run)), folder.log(run).open("wb") as log:
        return subprocess.Popen(
            command,
            env={**os.environ, **slot},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=() if sys.platform == "win32" else (lock,),
        )


def _stop(one: _Active, at_once: bool = False) -> None:
    """Let a process save and end, or end at once."""
    if at_once:
        one.process.kill()
    elif one.process.stdin is not None:
        one.process.stdin.close()


def _ended(folder: SweepFolder, one: _Active, stopping: bool) -> Event:
    """What a process that has ended made of its run; the ledger and what is broken are written."""
    _stop(one)  # closes the pipe to it
    state, entry = folder.state(one.run)
    code = one.process.returncode
    if state != DONE and stopping:
        return Event(one.run, STOPPED)
    if state != DONE:
        killed = code < 0 or code >= 128
        number = -code if code < 0 else code - 128
        reason = _last_words(folder.log(one.run))
        if killed:
            reason = f"its process was ended by signal {number}" + (
                ", perhaps for want of memory" if number == 9 else ""
            )
        folder.set_broken(one.run, reason, again=killed)
        state, entry = folder.state(one.run)
    folder.write_ledger()
    return Event(one.run, state, entry)


def _last_words(log: Path) -> str:
    """Why a run failed, in the last line that its process wrote."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "its process ended without a word"
