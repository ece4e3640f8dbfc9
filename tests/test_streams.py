"""Signals, streams and names: what stops the work, what does not, and which exit code and which files are left."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ratlip
from PIL import Image
from rich.console import Console
from test_cli_train import options
from tqdm import tqdm

from ratlip_cli import files
from ratlip_cli.cli import console, signals, streams
from ratlip_cli.cli.app import main
from ratlip_cli.cli.train import StopRequest
from ratlip_cli.data.archives import check_archive
from ratlip_cli.data.images import read_image
from ratlip_cli.data.writer import _stored_before
from ratlip_cli.errors import Interrupted, RatlipError
from ratlip_cli.evaluation.feature_file import feature_writer
from ratlip_cli.files import whole_file, whole_folder, write_text
from ratlip_cli.outputs import ImageFolder
from ratlip_cli.tensor_files import load_pickled, save_pickled, save_tensors
from ratlip_cli.training import start
from ratlip_cli.training.checkpoint import list_checkpoints, read_checkpoint
from ratlip_cli.training.session import TrainingSession
from ratlip_cli.training.settings import TrainSettings, read_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import Trainer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and streams as POSIX has them")

STOPPING = [(2, 130), (15, 143), (1, 129)]  # SIGINT, SIGTERM, SIGHUP

ODD = os.fsdecode(b"caf\xe9")
"""A name of an old disk: its last byte is no letter of UTF-8."""


def gone() -> int:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full() -> int:
    """A full disk."""
    return os.open("/dev/full", os.O_WRONLY)


def read_only() -> int:
    """A file that takes no writing."""
    return os.open(os.devnull, os.O_RDONLY)


@pytest.fixture
def _streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the standard streams as they were."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


def stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w")), encoding="utf-8")


@pytest.mark.parametrize("make", [gone, full, read_only])
@pytest.mark.usefixtures("_streams")
def test_whoever_writes_to_a_stream_that_takes_nothing_goes_on(make: Callable[[], int]) -> None:
    sys.stdout, sys.stderr = stream(make()), stream(make())
    streams.set_up()
    console.note("a note")
    console.error("an error")
    console.result("a result")
    console.result(Path("a path"))
    console.result_table("a table", ("a", "b"), [("1", "2")] * 100)
    print("x" * 100_000, flush=True)
    Console(stderr=True, force_terminal=True).print("[bold]rich")
    list(tqdm(range(3)))
    logging.StreamHandler().handle(logging.makeLogRecord({"msg": "of a library"}))
    with console.progress("work", 2) as advance:
        advance(2)
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize(("make", "told"), [(gone, None), (full, "No space left on device")])
@pytest.mark.usefixtures("_streams")
def test_a_result_that_a_full_disk_did_not_take_is_told(make: Callable[[], int], told: str | None) -> None:
    sys.stdout = stream(make())
    streams.set_up()
    console.result("a result")
    assert streams.lost_result() == told


@pytest.mark.usefixtures("_streams")
def test_a_stream_that_does_not_wait_is_waited_for() -> None:
    """Another program made the pipe non-blocking; what it cannot take at once arrives all the same."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sys.stdout = stream(writer)
    streams.set_up()
    with subprocess.Popen(["sh", "-c", "sleep 0.1; wc -c"], stdin=reader, stdout=subprocess.PIPE) as counting:
        os.close(reader)
        console.result("x" * 300_000)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # its end
        assert counting.stdout is not None
        assert int(counting.stdout.read()) == 300_001


def run(script: str, *arguments: object, shell: str = "") -> subprocess.CompletedProcess[str]:
    """Run `script` in a process of its own, its streams as `shell` redirects them."""
    command = ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable, "-c", script]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four captioned images of 24 pixels."""
    folder = tmp_path_factory.mktemp("images") / "theirs"
    folder.mkdir()
    for colour in ("red", "green", "blue", "white"):
        Image.new("RGB", (24, 24), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"all of it is {colour}\n", encoding="utf-8")
    return folder


WORK_AND_A_LIBRARY_THAT_WRITES = """
import contextlib, os
from ratlip_cli.__main__ import main
try:
    main()
finally:
    with contextlib.suppress(OSError):
        os.write(2, b"of a library")
"""


@pytest.mark.parametrize("shell", ["<&- >&- 2>&-", "2>&1 | true"])
def test_work_is_done_whatever_the_streams_are(shell: str, captioned: Path, tmp_path: Path) -> None:
    """And the number of a stream that was closed goes to no file, where what is written to the stream would end."""
    data = tmp_path / "data"
    arguments = ["prepare", captioned, "--image-size", 16, "--data-dir", data, "--workers", 0]
    found = run(WORK_AND_A_LIBRARY_THAT_WRITES, *arguments, shell=shell)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert json.loads((data / "theirs" / "dataset.json").read_text())["counts"]
    assert all(b"of a library" not in path.read_bytes() for path in data.rglob("*.*") if path.is_file())


@pytest.mark.parametrize(("limit", "code"), [("-1", 3), ("1000", 0)])
@pytest.mark.usefixtures("_streams")
def test_the_code_that_the_work_earned_survives_a_reader_that_went(
    limit: str, code: int, captioned: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.stdout, sys.stderr = stream(gone()), stream(gone())
    given = ["evaluate", "--images", captioned, "--reference", captioned, "--features", "clip", "--clip", tiny_clip]
    monkeypatch.setattr(sys, "argv", ["ratlip", *map(str, given), "--max-fid", limit])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code


SWALLOWS = """
import os
try:
    os.kill(os.getpid(), {number})
except BaseException:
    pass
"""

IMPORTS = """
import sys
from ratlip_cli.cli import signals
sys.path.insert(0, sys.argv[1])
with signals.raising():
    import swallows
print("went on")
"""

DESTROYS = """
import os, time
from ratlip_cli.cli import signals
from ratlip_cli.errors import Interrupted

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), {number})
        sum(range(1000))

with signals.raising():
    try:
        Destroyed()
        time.sleep(30)
    except Interrupted as stop:
        raise SystemExit(stop.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), STOPPING)
def test_a_signal_during_an_import_is_obeyed_whatever_the_imported_does(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(number=number))
    found = run(IMPORTS, tmp_path)
    assert (found.returncode, found.stdout) == (code, "")
    assert len(found.stderr.splitlines()) == 1


def test_of_several_processes_the_first_one_alone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(number=15))
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        found = run(IMPORTS, tmp_path)
        said[rank] = (found.returncode, found.stderr)
    assert said == {"0": (143, "error: terminated.\n"), "1": (143, "")}


def test_a_signal_that_python_had_to_drop_comes_again() -> None:
    found = run(DESTROYS.format(number=15))
    assert (found.returncode, found.stderr) == (143, "")


BUSY = """
import threading
wait = threading.Event.wait

def late(event, timeout=None):
    done = wait(event, timeout)
    if timeout is None and not late.once:
        late.once = True
        time.sleep(0.5)
    return done

late.once = False
threading.Event.wait = late
"""


def test_it_comes_again_also_where_it_comes_while_it_is_sent() -> None:
    """As on a busy machine: the thread that sends it is quicker than the one that has begun it."""
    beginning, rest = DESTROYS.format(number=15).split("\n\n", 1)
    found = run(f"{beginning}\n{BUSY}\n{rest}")
    assert (found.returncode, found.stderr) == (143, "")


@pytest.mark.parametrize(
    ("patched", "work"),
    [
        ("PIL.Image.open", read_image),
        ("PIL.Image.open", _stored_before),
        ("zipfile.ZipFile.__init__", check_archive),
        ("tarfile.TarInfo.frombuf", check_archive),
        ("torch.load", load_pickled),
    ],
)
def test_an_interruption_is_no_damage(
    patched: str, work: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    save_pickled(path, {})
    if patched != "torch.load":
        path.write_bytes(bytes(10_240) if "tar" in patched else b"PK" + bytes(100))
    monkeypatch.setattr(patched, fail(Interrupted("terminated.", 15)))
    with pytest.raises(Interrupted):
        work(path)


def fail(error: BaseException) -> Callable[..., Any]:
    """What raises `error`."""

    def failing(*arguments: object, **options: object) -> None:
        raise error

    return failing


def interrupted(call: int, number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which the signal `number` meets in its call `call`."""
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return counted


@pytest.mark.parametrize(("number", "code"), STOPPING)
def test_prepare_leaves_nothing_out_for_a_signal(
    number: int, code: int, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["prepare", captioned, "--image-size", 16, "--data-dir", tmp_path / "data", "--workers", 0]
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", interrupted(3, number, Image.Image.resize))
        stopped = ratlip(*arguments)
    assert (stopped.code, stopped.out) == (code, "")
    assert "run the same again to go on" in stopped.err
    assert not (tmp_path / "data" / "theirs").exists()
    assert ratlip(*arguments).code == 0
    info = json.loads((tmp_path / "data" / "theirs" / "dataset.json").read_text())
    assert (sum(info["counts"].values()), info["left_out"]) == (4, [])


def test_evaluate_promises_nothing_that_is_not_kept(
    captioned: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratlip_cli.evaluation.run.extract", interrupted(1, 15, fail(ValueError("not terminated"))))
    given = ("--images", captioned, "--reference", captioned, "--features", "clip", "--clip", tiny_clip)
    stopped = ratlip("evaluate", *given, "--fid", "-q")
    assert (stopped.code, stopped.err) == (143, "error: terminated.\n")


def steps_saved(settings: TrainSettings) -> list[int]:
    """The steps of the checkpoints, all of which can be read."""
    return [read_checkpoint(path).step for path in list_checkpoints(Path(settings.out) / "checkpoints")]


def test_training_saves_when_the_terminal_is_closed(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train_step", interrupted(2, signal.SIGHUP, Trainer.train_step))
    stopped = ratlip("train", *options(settings))
    assert stopped.code == 129
    assert f"Go on with: ratlip train --resume {settings.out}" in stopped.err
    assert steps_saved(settings) == [2]


@pytest.mark.parametrize(("first", "second", "code", "saved"), [(1, 1, 129, [2]), (15, 1, 143, [2]), (1, 15, 143, [])])
def test_a_second_signal_stops_the_saving_unless_it_is_the_terminals(
    first: int, second: int, code: int, saved: list[int], settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that is closed sends SIGHUP to its programs, and so does the shell in it."""
    monkeypatch.setattr(Trainer, "train_step", interrupted(2, first, Trainer.train_step))
    monkeypatch.setattr(Trainer, "state", interrupted(1, second, Trainer.state))
    assert ratlip("train", *options(settings)).code == code
    assert steps_saved(settings) == saved
    assert [path.name for path in Path(settings.out).rglob(".*")] == [".lock"]


def test_one_of_several_processes_heeds_the_first_signal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells all processes, such as a time limit, torchrun passes on to each once more."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with StopRequest() as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.signal_number == signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save_every", "kept"), [(100, "No step is saved yet."), (1, "Step 2 is saved, and nothing after")]
)
def test_a_second_signal_says_what_is_kept(
    save_every: int, kept: str, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.replaced(save_every=save_every)
    monkeypatch.setattr(Trainer, "train_step", interrupted(3, signal.SIGINT, interrupted(3, 2, Trainer.train_step)))
    stopped = ratlip("train", *options(settings), "--quiet")
    assert stopped.code == 130
    last = stopped.err.splitlines()[-1]
    assert last.startswith(f"error: interrupted. {kept}")
    assert last.endswith(f"Go on with: ratlip train --resume {settings.out}")
    monkeypatch.undo()
    assert ratlip("train", "--resume", settings.out).code == 0
    assert steps_saved(settings)[0] == settings.steps


def test_a_signal_just_after_the_beginning_lets_it_end_in_order(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one step is done: nothing is said to be saved, and the run folder can be gone on with."""
    note = console.note

    def noted(message: str) -> None:
        if message.startswith("training in"):
            os.kill(os.getpid(), signal.SIGINT)
        note(message)

    monkeypatch.setattr(console, "note", noted)
    stopped = ratlip("train", *options(settings))
    assert stopped.code == 130
    assert stopped.err.count("training in") == 1
    assert f"stopped before step 1 of {settings.steps}, so there is nothing to save. Go on with: " in stopped.err
    assert (Path(settings.out) / "environment.json").is_file()
    assert steps_saved(settings) == []
    monkeypatch.undo()
    assert ratlip("train", "--resume", settings.out).code == 0


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted."), (signal.SIGUSR1, 143, "terminated.")]
)
@pytest.mark.parametrize("during", ["create_model_folder", "import_for"])
def test_a_signal_before_a_run_has_begun_leaves_no_run_folder(
    number: int, code: int, said: str, during: str, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, during, interrupted(1, number, getattr(start, during)))
    stopped = ratlip("train", *options(settings))
    assert (stopped.code, stopped.err.splitlines()[-1]) == (code, f"error: {said}")
    assert not Path(settings.out).exists()


def test_what_nohup_ignores_stays_ignored(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train_step", interrupted(2, signal.SIGHUP, Trainer.train_step))
    with signals.handled([signal.SIGHUP], signal.SIG_IGN):  # type: ignore[arg-type]
        assert ratlip("train", *options(settings)).code == 0
    assert steps_saved(settings) == [settings.steps]


def train(session: TrainingSession, then: Callable[[], object]) -> None:
    """Train; after three steps, `then` happens."""
    for record in session.run():
        if record.step == 3:
            then()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patched", "error", "done"),
    [
        (None, ValueError("of the caller"), 3),
        ("session.TrainingSession._evaluate", RatlipError("a score is not finite"), 4),
        ("run_folder.RunFolder.log", RatlipError("no space"), 4),
        ("trainer.Trainer._generator_half", KeyboardInterrupt(), 3),
    ],
)
def test_every_way_out_of_the_loop_saves_what_is_complete(
    patched: str | None, error: BaseException, done: int, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(settings.replaced(eval_every=4, eval_features="clip"))

    def go_wrong() -> None:
        if patched is None:
            raise error
        monkeypatch.setattr(f"ratlip_cli.training.{patched}", fail(error))

    with pytest.raises(type(error)) as raised:
        train(session, then=go_wrong)
    assert raised.value is error
    assert steps_saved(settings) == [done]
    lines = (Path(settings.out) / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == (3 if "log" in str(patched) else done)
    monkeypatch.undo()
    assert [record.step for record in open_session(settings.replaced(resume=settings.out)).run()][-1] == settings.steps


def test_a_step_that_ended_half_way_is_not_saved(settings: TrainSettings) -> None:
    session = open_session(settings.replaced(save_every=2))
    with pytest.raises(RuntimeError, match="half-way"):
        train(session, then=lambda: setattr(session.trainer.optimizer_g, "step", fail(RuntimeError("half-way"))))
    assert steps_saved(settings) == [2]


def test_a_saving_that_fails_hides_no_reason(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("ratlip_cli"), "propagate", True)
    session = open_session(settings)
    monkeypatch.setattr("ratlip_cli.training.session.save_checkpoint", fail(RatlipError("no space")))
    with pytest.raises(ValueError, match="first"):
        train(session, then=fail(ValueError("first")))
    assert "step 3 could not be saved: no space" in caplog.text


def write_features(path: Path) -> None:
    with feature_writer(path, 100, 100) as append:
        append(torch.zeros(100, 100))


def write_in_folder(folder: Path, write: Callable[[Path], None]) -> None:
    with whole_folder(folder) as partial:
        write(partial / "state")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_pickled(path, {"a": torch.zeros(10_000)}),
        lambda path: save_tensors(path, {"a": torch.zeros(10_000)}),
        lambda path: write_text(path, "x" * 40_000),
        write_features,
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_full_disk_is_one_line_with_the_files_name(
    write: Callable[[Path], None], inside: bool, tmp_path: Path
) -> None:
    """Also of a file in a folder that is not finished: the name is the one that the user knows."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    target = tmp_path / "step_1" / "state"
    target.parent.mkdir(exist_ok=not inside)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RatlipError) as raised:
            write_in_folder(target.parent, write) if inside else write(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(raised.value).startswith(f"cannot write {target}: File too large. ")
    assert "ree some space" in str(raised.value)


STALE = (".0000_grid.png.1a2b3c4d.partial", ".model.00000000.partial")
OTHERS = ("theirs.partial", ".theirs.partial", ".0000_grid.png.1a2b3c4d.partial.txt", ".tmpAbCd12")


@pytest.mark.parametrize("writer", ["file", "folder", "images"])
def test_what_a_killed_process_left_is_removed_and_nothing_else(writer: str, tmp_path: Path) -> None:
    (tmp_path / STALE[1] / "inside").mkdir(parents=True)
    for name in (STALE[0], f"{STALE[1]}/inside/x", *OTHERS):
        (tmp_path / name).write_text("x")
    with whole_file(tmp_path / "elsewhere" / "x") as written:
        moved = written.parent.rename(tmp_path / written.parent.name)  # as if another process wrote here now
        if writer == "file":
            write_text(tmp_path / "new", "x")
        elif writer == "folder":
            with whole_folder(tmp_path / "new"):
                pass
        else:
            ImageFolder(tmp_path)
        left = {path.name for path in tmp_path.iterdir()}
        moved.rename(written.parent).joinpath("x").write_text("x")
    assert left - {"new", "elsewhere"} == {*OTHERS, moved.name}


def test_a_scratch_folder_of_a_killed_process_is_removed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os\nfrom ratlip_cli.files import scratch_folder\n"
        "with scratch_folder() as folder:\n    (folder / 'features').touch()\n    os.kill(os.getpid(), 9)"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "features").is_file()
    with files.scratch_folder() as living:
        assert list(tmp_path.iterdir()) == [living]
        assert living.stat().st_mode & 0o777 == 0o700
        files.remove_partials(tmp_path)
        assert living.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_the_place_of_none_that_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def none(self: Path, target: Path) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", none)
    with whole_file(tmp_path / "x", new=True) as partial:
        partial.write_text("first")
    with pytest.raises(RatlipError, match="x exists: another ratlip writes"), whole_file(tmp_path / "x", new=True):
        raise AssertionError("nothing is made where nothing can be written")

    def write_beside_another() -> None:
        with whole_file(tmp_path / "y", new=True) as partial:
            partial.write_text("second")
            (tmp_path / "y").write_text("another's")

    with pytest.raises(RatlipError, match="y exists: another"):
        write_beside_another()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "first", "y": "another's"}


def test_a_folder_that_was_moved_aside_when_its_process_was_killed_is_put_back(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom ratlip_cli.files import whole_folder\n"
        "Path('best').mkdir()\nPath('best/weights').touch()\nrename = Path.rename\n"
        "def killed(self, target):\n    rename(self, target)\n"
        "    if self == Path('best'):\n        os.kill(os.getpid(), 9)\n"
        "Path.rename = killed\n"
        "with whole_folder(Path('best'), replaces=True) as new:\n    (new / 'weights').touch()"
    )
    subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path)
    assert not (tmp_path / "best").exists()
    files.remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "best"]
    assert (tmp_path / "best" / "weights").is_file()


def test_what_is_begun_at_this_moment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process looks for what was left behind, just before this one says that it is at work."""
    lock = files._lock

    def looked_at(descriptor: int) -> bool:
        monkeypatch.setattr(files, "_lock", lock)
        files.remove_partials(tmp_path)
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", looked_at)
    write_text(tmp_path / "x", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_safetensors_leaves_its_temporary_files_where_they_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes them beside the file: here that is a folder of the kind that the test before this one removes."""
    beside: list[Path] = []

    def saved(tensors: object, path: Path, metadata: object) -> None:
        beside.append(path.parent)
        path.write_bytes(b"")

    monkeypatch.setattr("ratlip_cli.tensor_files.save_file", saved)
    save_tensors(tmp_path / "generator.safetensors", {"a": torch.zeros(3)})
    (folder,) = beside
    assert folder.parent == tmp_path
    assert re.fullmatch(r"\.generator\.safetensors\.[0-9a-f]{8}\.partial", folder.name)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "utf-16", "cp932"])
@pytest.mark.usefixtures("_streams")
def test_json_is_json_whatever_the_encoding(encoding: str) -> None:
    value = {"prompt": "a red bird 🐦, déjà vu, 鳥", "path": str(Path(ODD))}
    taken = io.BytesIO()
    sys.stdout = io.TextIOWrapper(taken, encoding=encoding, errors="strict")
    console.result_json(value)
    assert json.loads(taken.getvalue().decode(encoding)) == value


@pytest.mark.parametrize("name", [ODD, "déjà", "plain"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.usefixtures("_streams")
def test_a_path_comes_out_as_scripts_can_use_it(name: str, encoding: str) -> None:
    taken = io.BytesIO()
    sys.stdout = io.TextIOWrapper(taken, encoding=encoding, errors="strict")
    console.result(Path(name))
    assert taken.getvalue() == os.fsencode(name) + b"\n"


@pytest.mark.usefixtures("_streams")
def test_toml_is_utf8_whatever_the_encoding() -> None:
    taken = io.BytesIO()
    sys.stdout = io.TextIOWrapper(taken, encoding="cp1252", errors="strict")
    console.result_toml('dataset = "déjà 鳥"')
    assert taken.getvalue().decode("utf-8") == 'dataset = "déjà 鳥"\n'


def test_a_prompt_is_utf8_where_the_locale_has_no_letters() -> None:
    assert console.typed("un \udcc3\udca9t\udcc3\udca9") == "un été"
    assert console.typed("un été 🐦\u200d") == "un été 🐦\u200d"
    with pytest.raises(RatlipError, match="not UTF-8"):
        console.typed(ODD)


@pytest.mark.slow
def test_every_command_takes_names_that_are_not_utf8(
    settings: TrainSettings, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, images = f"run-{ODD}", f"images-{ODD}"
    shutil.copytree(settings.dataset, ODD)
    shutil.copytree(captioned, images)
    for kind in ("png", "txt"):
        (Path(images) / f"red.{kind}").rename(Path(images) / f"{ODD}.{kind}")
    of_run = options(settings.replaced(out=model, dataset=ODD, steps=1, sample_every=1))
    scored = ["--images", images, "--reference", images, "--features", "clip", "--clip", settings.clip, "--fid"]
    commands: list[list[object]] = [
        ["prepare", images, "--image-size", 16, "--workers", 0, "-q"],
        ["train", *of_run, "-q"],
        ["generate", "a bird", "--model", model, "--out", f"generated-{ODD}", "-q"],
        ["evaluate", *scored, "--out", f"{ODD}.json", "-q"],
        ["gradcam", "a bird", "--model", model, "--out", f"gradcam-{ODD}", "-q"],
    ]
    for command in commands:
        found = ratlip(*command, "--json")
        assert found.code == 0, (command, found.err)
        assert isinstance(json.loads(found.out), dict)
    assert read_settings(Path(model) / "config.toml")["dataset"] == ODD
    assert ratlip("train", "--resume", model, "--steps", 2, "-q").code == 0
    record = json.loads((Path(f"generated-{ODD}") / "images.jsonl").read_text().splitlines()[0])
    assert record["model"] == model
    assert json.loads(Path(f"{ODD}.json").read_text())["images"] == images
