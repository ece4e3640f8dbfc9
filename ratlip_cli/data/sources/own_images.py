"""Your own images: a folder of images with captions, a table that names images, or shards of WebDataset.

In a folder, captions stand in `x.txt` beside `x.jpg`, one a line, or in a `metadata.jsonl` or `metadata.csv` that names
the images of its folder in the column `file_name`. Where neither is there, other tables of captions are looked for (see
`tables`, `captions_json`, `parquet`), then text files in folders of their own (see `caption_files`). Folders may be
nested; images below `train/` and `test/` go to these splits, others by their names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from ratlip_cli.data import archives
from ratlip_cli.data.folders import Folder, file_state, read_folder
from ratlip_cli.data.images import is_image, why_not_read
from ratlip_cli.data.layout import Json, Problem, Record
from ratlip_cli.data.sources import named_images, parquet, tables, webdataset, zipped
from ratlip_cli.data.sources.caption_files import CaptionFiles, unread_images
from ratlip_cli.data.sources.texts import decoded
from ratlip_cli.errors import DataError, UsageError

LICENCE = "that of the images' owner"

SPLITS = ("train", "test")
"""The splits that images can go to."""

_LATER = ("image_root", "caption", "keep_uncaptioned")
"""Options that earlier versions did not have."""


@dataclass(frozen=True)
class Options:
    """How a folder is read."""

    caption_column: str | None = None  # Column with a caption or a list of them; None: one of tables.CAPTION_COLUMNS.
    test_fraction: float = 0.1  # Share, in [0,1), of the images outside train/ and test/ that go to test.
    seed: int = 0  # Decides which.
    image_root: str | None = None  # Folder at which the names in tables begin; None: that of the table.
    caption: str | None = None  # Caption of images that have none, with {folder} for the name of their folder.
    keep_uncaptioned: bool = False  # Whether images that have no caption are yielded, too.

    def __post_init__(self) -> None:
        unknown = set(re.findall(r"\{\w*\}", self.caption or "")) - {"{folder}"}
        if unknown:
            raise UsageError(f"--caption has {', '.join(sorted(unknown))}; it knows {{folder}} alone.")
        if self.image_root is not None and not Path(self.image_root).is_dir():
            raise UsageError(f"--image-root {self.image_root} is not a folder.")
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"the test fraction must be at least 0 and less than 1, not {self.test_fraction:g}")

    @property
    def without_caption(self) -> bool:
        """Whether an image is yielded that no text and no table captions."""
        return self.keep_uncaptioned or self.caption is not None

    def stated(self) -> dict[str, Json]:
        """Return the options for dataset.json; what earlier versions did not know only where it is asked for."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value}

    def split_rule(self) -> str:
        """Return the rule in words, for dataset.json."""
        share = f"{self.test_fraction:g} of the images are test, by name (seed {self.seed})"
        return f"the folders train and test; elsewhere {share}"

    def split(self, name: str) -> str:
        """Return "train" or "test", for this name alone: adding an image moves no other."""
        return "test" if self.rank(name) < self.test_fraction else "train"

    def rank(self, name: str) -> float:
        """Return a number in [0,1), for this name alone: images below the test fraction are test."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def records(path: Path, options: Options) -> Iterator[Record | Problem]:
    """Yield the captioned images of `path`, a folder in the order of its paths, and what cannot be used.

    Raises DataError where it, or a folder in it, cannot be read, or it is nothing that images can be read from.
    """
    if not path.is_file():
        return _of_folder(path, options)
    if webdataset.is_shard(path):
        return _in_shard(path, path.parent, options)
    if path.name.lower().endswith(archives.ZIP):
        return _in_zip(path, _stem(path) / zipped.top(path), options)
    if _is_table(path):
        return _of_table(path, options)
    raise DataError(
        f"{path} is a file. Give the folder of images with captions that it is in, a table "
        f"({', '.join(named_images.SUFFIXES)}), a .zip or a shard ({', '.join(webdataset.SUFFIXES)})."
    )


def name(path: Path) -> str:
    """Return what a dataset made from `path` is called."""
    path = path.resolve()
    if not path.is_file():
        return path.name
    return archives.stem(path.name) if archives.is_archive(path) else path.stem


def count(path: Path, options: Options | None = None) -> int | None:
    """Return the number of images, with or without captions, in `path`; None where archives would have to be read."""
    options = options or Options()
    if path.is_file():
        return len(_named(path, options)) if _names_images(path) else None
    files = list(_files_below(path))
    if any(archives.is_archive(file) or _is_parquet(file) for file in files):
        return None
    return sum(map(is_image, files))


def passed_over(path: Path, options: Options | None = None) -> tuple[str, ...]:
    """Return one line for each kind of thing in the folder `path` that is not used."""
    if path.is_file():
        return ()
    found = read_folder(path)
    files = list(found.all_files())
    tables_alone = [file for file in files if file.name.lower().endswith((".csv", ".tsv", ".jsonl"))]
    if tables_alone:
        texts = CaptionFiles(file.relative_to(path).as_posix() for file in files)
        column = (options or Options()).caption_column
        loose = ((file, table) for file, table in _loose_tables(path, files, texts) if file in tables_alone)
        others = [file for file, table in loose if not named_images.is_table(table, column)]
        if others:
            captions = "captions" if column is None else f"captions called '{column}'"
            return (*found.passed_over(), found.line(f"tables without columns of image names and {captions}", others))
    return found.passed_over()


def fingerprint(path: Path, options: Options | None = None) -> str:
    """Return 64 hex digits that change when a file of `path` comes, goes, is written again or may now be read."""
    digest = hashlib.sha256()
    for file, name in _all_files(path, options or Options()):
        try:
            state = file_state(file)
        except OSError:  # Its folder may be listed, but not read.
            continue
        digest.update(f"{name}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def content(path: Path, options: Options | None = None) -> str:
    """Return 64 hex digits of the names and bytes of all files of `path`: the same after it was moved or copied."""
    digest = hashlib.sha256()
    for file, name in _all_files(path, options or Options()):
        of_file = hashlib.blake2b(digest_size=32)
        try:
            with file.open("rb") as opened:
                while block := opened.read(2**20):
                    of_file.update(block)
        except OSError as error:
            of_file.update(str(error.strerror).encode())  # It is told where its image is read.
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape") + of_file.digest())
    return digest.hexdigest()


def _all_files(path: Path, options: Options) -> Iterator[tuple[Path, str]]:
    """Yield the files that `path` stands for, in a fixed order, and their names in it."""
    folder = path.parent if path.is_file() else path
    if not path.is_file():
        yield from ((file, str(file.relative_to(folder))) for file in _files_below(path))
    else:
        yield path, path.name
        if _names_images(path):
            root = _root(path, options)
            yield from ((file, str(file.relative_to(root))) for file in _named(path, options))
            return
    if options.image_root is not None:
        yield from ((file, file.name) for file in _files_below(Path(options.image_root)))


def _of_folder(path: Path, options: Options) -> Iterator[Record | Problem]:
    """The images of a folder: those that tables other than metadata.* name, then those of each folder in it."""
    found = read_folder(path)
    files = list(found.all_files())
    texts = CaptionFiles(file.relative_to(path).as_posix() for file in files)
    named: set[Path] = set()
    with ExitStack() as closing:
        place = _place(path, options, closing, files)
        tables_of_rows = (
            (_rows(table, options), _base(table.name, options)) for table in _other_tables(path, files, texts, options)
        )
        for item in named_images.of_tables(tables_of_rows, place.images, options.image_root is not None):
            if isinstance(item, Problem):
                named.add(place.root / item.name)
                yield item
            elif isinstance(item, tables.Row):
                yield _record(path / item.file_name, path, options, item)
            elif options.image_root is not None or texts.beside(item[0]) is None:
                named.add(place.root / item[0])
                yield _from_row(item, place, options)
        yield from _in_folder(found, place, path, options, texts, named)


def _rows(table: archives.Member, options: Options) -> Iterator[tables.Row | Problem]:
    """The rows of one table of several: where it cannot be read, the others can."""
    try:
        yield from named_images.rows(table, options.caption_column)
    except DataError as error:
        yield Problem(table.name, str(error))


def _base(table: str, options: Options) -> str:
    return table.rpartition("/")[0] if options.image_root is None else ""


def _place(path: Path, options: Options, closing: ExitStack, files: list[Path] | None = None) -> named_images.Place:
    """Where the names in the tables of `path`, a folder of `files` or a table, are looked for."""
    root = _root(path, options)
    return named_images.Place(root, lambda: _files_below(root) if files is None or root != path else files, closing)


def _root(path: Path, options: Options) -> Path:
    if options.image_root is not None:
        return Path(options.image_root)
    return path.parent if path.is_file() else path


def _other_tables(path: Path, files: list[Path], texts: CaptionFiles, options: Options) -> Iterator[archives.Member]:
    """Yield the tables of captions below `path` that are called otherwise than metadata.*, by what is in them."""
    for _, table in _loose_tables(path, files, texts):
        if named_images.is_table(table, options.caption_column):
            yield table


def _loose_tables(path: Path, files: list[Path], texts: CaptionFiles) -> Iterator[tuple[Path, archives.Member]]:
    """Yield what may be tables below `path`: not where there is a metadata.*, and not what belongs to one image."""
    covered = {file.parent for file in files if file.name in named_images.METADATA}
    for file in files:
        name = file.relative_to(path).as_posix()
        if not file.name.lower().endswith(named_images.SUFFIXES) or covered & {*file.parents}:
            continue
        if not (texts.belongs(name) or texts.is_beside_image(name)):
            yield file, archives.Member(name, file)


def _in_folder(
    found: Folder, place: named_images.Place, folder: Path, options: Options, captions: CaptionFiles, named: set[Path]
) -> Iterator[Record | Problem]:
    """The images of a folder, but for those `named` in a table already."""
    yield from found.problems
    table = next((found.path / name for name in named_images.METADATA if found.path / name in found.files), None)
    if table is not None:
        own: set[Path] = set()
        try:
            yield from _in_table(table, place, folder, options, own)
        except DataError as error:  # It cannot be read: the other folders can.
            yield Problem(str(table.relative_to(folder)), str(error))
            return
        rest = [file for file in found.all_files() if file not in own and file.suffix != ".txt"]
        if options.image_root is None:
            yield from _unnamed(rest, folder, options, f"{table.name} does not name it")
        return
    yield from _unnamed([file for file in found.files if file not in named], folder, options, captions)
    for file in found.files:
        if webdataset.is_shard(file):
            yield from _in_shard(file, folder, options)
        elif file.name.lower().endswith(archives.ZIP):
            yield from _in_zip(file, folder, options, named)
    for inner in found.folders:
        yield from _in_folder(inner, place, folder, options, captions, named)


def _unnamed(
    files: list[Path], folder: Path, options: Options, captions: CaptionFiles | str
) -> Iterator[Record | Problem]:
    """The images among `files`, which no table names, with their texts; or why no text counts."""
    images = dict.fromkeys(file for file in files if is_image(file))
    for file in unread_images(files, images.keys()):
        yield Problem(str(file.relative_to(folder)), why_not_read(file))
    for file in images:
        origin = str(file.relative_to(folder))
        found = None if isinstance(captions, str) else captions.of(file.relative_to(folder).as_posix())
        if found is None:
            if options.without_caption:
                yield _record(file, folder, options, tables.Row(file.name, ()))
            else:
                why = captions if isinstance(captions, str) else f"{file.stem}.txt is missing"
                yield Problem(origin, f"it has no caption: {why}")
            continue
        text = folder / found
        try:
            lines = tuple(decoded(text.read_bytes(), text.name).splitlines())
        except ValueError as error:
            yield Problem(origin, str(error))
        except OSError as error:
            yield Problem(origin, f"{text.name}: {error.strerror}")
        else:
            yield _record(file, folder, options, tables.Row(file.name, lines))


def _of_table(table: Path, options: Options) -> Iterator[Record | Problem]:
    """The images that a table names, which is given by itself."""
    with ExitStack() as closing:
        yield from _in_table(table, _place(table, options, closing), table.parent, options, set())


def _in_table(
    table: Path, place: named_images.Place, folder: Path, options: Options, named: set[Path]
) -> Iterator[Record | Problem]:
    """The images that a table in `folder` names, whose files are added to `named`."""
    for item in _merged(table, place, _base(table.relative_to(folder).as_posix(), options), options):
        if isinstance(item, Problem):
            named.add(place.root / item.name)
            yield item
        elif isinstance(item, tables.Row):
            yield _record(table.parent / Path(item.file_name).name, folder, options, item)
        else:
            named.add(place.root / item[0])
            yield _from_row(item, place, options)


def _merged(
    table: Path, place: named_images.Place, base: str, options: Options
) -> Iterator[tuple[str, tables.Row] | tables.Row | Problem]:
    """The rows of `table`, whose names begin at the folder `base` of `place`, by the images that they name."""
    rows = named_images.rows(archives.Member(table.name, table), options.caption_column)
    return named_images.of_tables([(place.relative(rows, base), base)], place.images, options.image_root is not None)


def _from_row(found: tuple[str, tables.Row], place: named_images.Place, options: Options) -> Record | Problem:
    name, row = found
    try:
        image = place.content(name)
    except archives.ArchiveError as error:
        return Problem(name, str(error))
    return _record(
        place.root / name, place.root, options, row if isinstance(image, Path) else row._replace(image=image)
    )


def _named(table: Path, options: Options) -> list[Path]:
    """Return the images that are there and that a table, or the .zip files beside it, hold and it names."""
    with ExitStack() as closing:
        place = _place(table, options, closing)
        found = [item[0] for item in _merged(table, place, "", options) if not isinstance(item, (tables.Row, Problem))]
        files = dict.fromkeys(place.zip_of(name) or place.root / name for name in found)
        return [file for file in files if file.is_file()]


def _in_zip(file: Path, folder: Path, options: Options, named: set[Path] | None = None) -> Iterator[Record | Problem]:
    """The images of a .zip, under the name of the .zip unless `folder` is that itself."""
    inside = _stem(file)
    apart = {place.relative_to(inside).as_posix() for place in named or () if place.is_relative_to(inside)}
    for sample in zipped.samples(file, options.caption_column, options.without_caption, apart):
        if isinstance(sample, Problem):
            yield Problem(f"{file.name}/{sample.name}", sample.reason)
        else:
            yield _record(inside / sample.file_name, folder, options, sample)


def _stem(archive: Path) -> Path:
    """The folder for which an archive stands."""
    return archive.with_name(archives.stem(archive.name))


def _is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(parquet.SUFFIXES)


def _in_shard(shard: Path, folder: Path, options: Options) -> Iterator[Record | Problem]:
    origin = shard.relative_to(folder)
    for sample in webdataset.samples(shard, options.caption_column):
        if isinstance(sample, Problem):
            yield Problem(f"{origin}/{sample.name}", sample.reason)
        else:
            yield _record(_stem(shard) / sample.file_name, folder, options, sample)


def _record(place: Path, folder: Path, options: Options, row: tables.Row) -> Record | Problem:
    """The record of an image, whose name and split are those of its `place` in `folder`; why it has no captions."""
    origin = place.relative_to(folder)
    if row.why and not row.captions and not options.without_caption:
        return Problem(str(origin), row.why)
    parts = (*origin.parent.parts, origin.stem)
    rank = None
    if len(parts) > 1 and parts[0] in ("train", "test"):
        split, parts = parts[0], parts[1:]
    else:
        split = options.split("/".join(parts))
        rank = options.rank("/".join(parts)) if options.test_fraction else None
    image = place if row.image is None else row.image
    captions = row.captions
    if options.caption is not None and not any(caption.strip() for caption in captions):
        captions = (options.caption.replace("{folder}", _in_words(origin, folder)),)
    return Record("_".join(parts), split, captions, image, extra=row.further, origin=str(origin), rank=rank)


def _in_words(origin: Path, folder: Path) -> str:
    """The name of the folder of an image as words: "001.Red_winged_Blackbird" is Red winged Blackbird."""
    inner = origin.parent.name
    if inner == "" or (inner in ("train", "test") and len(origin.parts) == 2):
        inner = folder.resolve().name
    return re.sub(r"[_\s]+", " ", re.sub(r"^\d+[.\-_\s]+(?=\D)", "", inner)).strip()


def _is_table(file: Path) -> bool:
    return file.name.lower().endswith(named_images.SUFFIXES)


def _names_images(file: Path) -> bool:
    """Whether `file` is a table of images that are elsewhere."""
    return _is_table(file) and not (_is_parquet(file) and parquet.holds_images(file))


def _files_below(directory: Path) -> Iterator[Path]:
    return read_folder(directory).all_files()
