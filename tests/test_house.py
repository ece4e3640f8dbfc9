"""The house rules of the package: the direction of imports, what may print, and what may be imported at start."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights

PACKAGE = Path(__file__).parents[1] / "ratlip_cli"
FLOORS = [
    {"errors", "file_kinds", "files", "fonts", "generation", "grids", "json_files", "noise"}
    | {"pickle_nesting", "processes", "progress", "setting", "threads"},
    {"samples", "tokenizer", "torchscript"},
    {"clip_tokenizer", "exported", "planned"},
    {"tensor_files", "pixels", "device"},
    {"distributed"},
    {"demo", "model"},
    {"baselines"},
    {"training.objectives"},
    {"family"},
    {"families"},
    {"fast"},
    {"weights", "data"},
    {"environment", "sampling", "summary"},
    {"like", "outputs"},
    {"animations", "editing", "explain", "evaluation", "publish"},
    {"training"},
    {"experiments"},
    {"api"},
    {"web"},
    {"cli"},
    {"__main__"},
]
"""From the ground up: a room imports from its own floor's room and from the floors below."""


def rooms() -> dict[str, int]:
    return {room: number for number, floor in enumerate(FLOORS) for room in floor}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """The whole syntax tree of a file of the package."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports() -> Iterator[tuple[Path, str, ast.stmt]]:
    """Every import in the package but those for type checkers: the file, the module imported, the statement."""
    for path in sorted(PACKAGE.rglob("*.py")):
        typing = [
            node for node in nodes(path) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ]
        unused = {id(inner) for node in typing for inner in ast.walk(node)}
        for node in nodes(path):
            if id(node) in unused:
                continue
            if isinstance(node, ast.Import):
                yield from ((path, alias.name, node) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                for alias in node.names:
                    yield path, f"{node.module}.{alias.name}", node


def room_of(path: Path) -> str:
    return room(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))


def room(module: str) -> str:
    """The room of a module `ratlip_cli.x.y`: the first part of its name, but for objectives, which have one."""
    parts = module.split(".")
    inner = ".".join(parts[1:3])
    return inner if inner in rooms() else parts[1]


def test_every_room_has_its_floor() -> None:
    found = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(rooms())


def test_imports_never_go_upwards() -> None:
    floor = rooms()
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path, module, _ in imports()
        if module.startswith("ratlip_cli.") and (target := room(module)) in floor
        if path != PACKAGE / "__init__.py"  # the public face
        if floor[target] > floor.get(room_of(path), 0)
        or (floor[target] == floor.get(room_of(path), 0) and target != room_of(path) and target not in FLOORS[0])
    ]
    assert upwards == []


def test_only_the_command_line_knows_the_terminal() -> None:
    offenders = {
        str(path.relative_to(PACKAGE))
        for path, module, _ in imports()
        if module.split(".")[0] in ("typer", "rich") and room_of(path) != "cli"
    }
    printing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert offenders == set()
    assert printing == set()


def test_only_what_gets_a_clip_imports_open_clip() -> None:
    offenders = {str(path.relative_to(PACKAGE)) for path, module, _ in imports() if module.split(".")[0] == "open_clip"}
    assert offenders == {"weights/clip_files.py"}


SLOW_TO_IMPORT = {"torchvision", "timm", "open_clip", "torch_fidelity", "huggingface_hub.hf_api", "scipy.io", "sklearn"}
"""What gets CLIPs by name, is for Inception, speaks to the Hub, reads the labels of one dataset or makes one figure."""
FOR_FIGURES = {"matplotlib"}


@pytest.fixture(scope="module")
def own_clip_model(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose CLIP lies in it and is not the bundled one."""
    clip = load_clip(str(tiny_clip))
    config = GeneratorConfig(image_size=32, noise_dim=8, hidden_size=4, base_channels=4)
    folder = tmp_path_factory.mktemp("models") / "own-clip"
    create_model_folder(folder, model_config(config, DiscriminatorConfig(), clip, features="clip"), clip)
    save_weights(folder, Generator(config, clip.geometry).state_dict())
    return folder


@pytest.mark.parametrize(
    ("commands", "unwanted"),
    [
        (
            [["generate", "a red bird"], ["evaluate", "--clip-score", "--dataset", "DATASET"]],
            SLOW_TO_IMPORT | FOR_FIGURES,
        ),
        pytest.param(
            [
                ["gradcam", "a red bird"],
                ["latent-viz", "--from", "a red bird", "--to", "a blue bird", "--steps", "2"],
                ["latent-viz", "--dataset", "DATASET", "--split", "train"],
            ],
            SLOW_TO_IMPORT,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["without figures", "with figures"],
)
def test_what_is_slow_to_import_is_imported_where_it_is_needed(
    commands: list[list[str]], unwanted: set[str], own_clip_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """With a model that has a CLIP of its own; with the bundled one too where no dataset of the size is needed."""
    runs = [
        [*(str(tiny_dataset) if word == "DATASET" else word for word in command), "--model", str(model), "--quiet"]
        for command in commands
        for model in ([own_clip_model] if "DATASET" in command else ["ratlip-demo", own_clip_model])
    ]
    code = f"""
import sys
from ratlip_cli.cli.app import app
for run in {runs!r}:
    app(run, standalone_mode=False)
    found = sorted({unwanted!r} & sys.modules.keys())
    assert not found, (run, found)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_what_exported_models_need_imports_no_torch() -> None:
    """The protocol, noise, files and grids of `generate`; that the command itself holds to it: test_export.py."""
    code = "import sys, ratlip_cli.exported, ratlip_cli.outputs, ratlip_cli.samples; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_assert_and_no_pickle() -> None:
    asserts = [str(path) for path in PACKAGE.rglob("*.py") for node in nodes(path) if isinstance(node, ast.Assert)]
    loads = [
        (path, ast.unparse(node))
        for path in PACKAGE.rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
    ]
    assert asserts == []
    assert all("weights_only=True" in call for _, call in loads)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(
            [command, "--help"]
            for command in ("train", "generate", "evaluate", "gradcam", "latent-viz", "compare", "reproduce")
        ),
    ],
)
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from ratlip_cli.cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as exit:\n    assert exit.code in (0, None)\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_plain_model_is_plain() -> None:
    """Section III in primitive operations: nothing of its own gradients, of devices, of compilers or of files."""
    forbidden = {"autograd", "Function", "is_compiling", "ops", "device", "is_cuda", "cuda", "backends", "compile"}
    offenders = [
        f"{path.name}: {ast.unparse(node)}"
        for path in (PACKAGE / "model").glob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in forbidden
        if ast.unparse(node) not in ("torch.autograd.grad", "torch.autograd", "self.mean.device")
    ]
    assert offenders == []
    files = [f"{path.name} imports {module}" for path, module, _ in imports() if path.parent.name == "model"]
    assert not [line for line in files if "pathlib" in line or "ratlip_cli.files" in line or "json" in line]
