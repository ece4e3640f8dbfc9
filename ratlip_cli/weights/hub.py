"""Model folders on the Hugging Face Hub, through huggingface_hub: its cache, token, offline mode and progress."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, snapshot_download, utils

import ratlip_cli
from ratlip_cli.baselines.damsm_files import TEXT_ENCODER_FILE, VOCABULARY_FILE
from ratlip_cli.errors import RatlipError, UsageError, WeightsError, first_line, one_line
from ratlip_cli.files import hash_of
from ratlip_cli.json_files import read_json
from ratlip_cli.weights.model_folder import CARD_FILES, CLIP_FOLDER, CONFIG_FILE, GENERATOR_FILE, MODEL_FILES

_REVISION = re.compile(r"(?!.*(\.\.|//|/\.|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9_./-]*(?<![./])")
"""Branches, tags and commits as git allows them, of letters that mean nothing in an address."""

_ADVICE = {
    401: "the Hugging Face Hub does not know who you are. Log in with `hf auth login`.",
    403: "your Hugging Face token does not allow it. Ask the owner for access, or log in with a token that has it: "
    "`hf auth login`.",
    404: "it is not on the Hugging Face Hub (any more). Check the name, or pick another one.",
    429: "too many requests for the Hugging Face Hub. Wait a few minutes; logged in, you may ask more.",
}
"""By the status of the Hub's answer, what to say after what could not be done."""


def download(name: str) -> Path:
    """The local copy of a model folder `owner/name[@revision]`, downloaded where it is not in the cache yet.

    Only MODEL_FILES: no pickle, no code. Every file is compared with its hash on the Hub; one that differs is removed.

    Raises WeightsError: one line that says whether to log in, ask for access, go online or pick another name.
    """
    if not is_hub_name(name):
        raise WeightsError(f"{name!a} is not a name on the Hugging Face Hub: use owner/name or owner/name@revision.")
    repository, _, revision = name.partition("@")
    with explained(name, f"{repository} could not be downloaded"):
        snapshot = Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(MODEL_FILES),
                library_name="ratlip",
                library_version=ratlip_cli.__version__,
            )
        )
    _check_whole(name, snapshot)
    _verify(name, snapshot)
    return snapshot


def pinned_name(name: str, snapshot: Path) -> str:
    """owner/name@commit of what `download(name)` returned: the cache calls a snapshot by its commit."""
    return f"{name.partition('@')[0]}@{snapshot.name}"


def push(
    files: Mapping[str, Path], repository: str, private: bool = False, revision: str | None = None
) -> tuple[str, str]:
    """Upload a model in one commit; the repository is made where there is none.

    Args:
        files: by their names in the repository, of MODEL_FILES and CARD_FILES. Those of them that the repository has
            and this model has not are removed from it.
        repository: owner/name.
        private: make the repository private; one that is public already is refused.
        revision: a branch, made where there is none; left out, `main`.

    Returns owner/name@commit, which `download` takes to get exactly this model, and the commit's page. Raises
    WeightsError, one line that says what to do, and UsageError where `repository` is not owner/name or `revision` no
    name of a branch.
    """
    check_repository(repository, revision)
    api = HfApi(library_name="ratlip", library_version=ratlip_cli.__version__)
    with explained(repository, f"{repository} could not be pushed"):
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise WeightsError(f"{repository} is there and public: choose another name, or change it on its page.")
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        surplus = set(api.list_repo_files(repository, revision=revision)) - files.keys()
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, path) for name, path in files.items()),
            *(CommitOperationDelete(name) for name in (*MODEL_FILES, *CARD_FILES) if name in surplus),
        ]
        message = f"Model folder, pushed with ratlip {ratlip_cli.__version__}"
        commit = api.create_commit(repository, changes, commit_message=message, revision=revision)
    return f"{repository}@{commit.oid}", commit.commit_url


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form owner/name[@revision], each of them such as may stand in an address."""
    repository, at, revision = name.partition("@")
    if repository.count("/") != 1 or not repository.isascii():
        return False
    try:
        utils.validate_repo_id(repository)  # type: ignore[attr-defined]
    except errors.HFValidationError:
        return False
    return not at or is_revision(revision)


def is_revision(revision: str) -> bool:
    """Whether `revision` can be a branch, tag or commit, and stand in an address."""
    return _REVISION.fullmatch(revision) is not None


def check_repository(repository: str, revision: str | None = None) -> None:
    """Raise UsageError where `repository` is not owner/name, or `revision` cannot be the name of a branch."""
    if not is_hub_name(repository) or "@" in repository:
        raise UsageError(f"'{repository}' is not a name on the Hugging Face Hub: use owner/name.")
    if revision is not None and not is_revision(revision):
        raise UsageError(f"{revision!a} cannot be the name of a branch: use letters, digits, '.', '-', '_' and '/'.")


def _check_whole(name: str, snapshot: Path) -> None:
    """Raise WeightsError where the cache has only a part of a model, as after a download that broke off."""
    config: Any = None
    with suppress(OSError, ValueError):  # a damaged one is told when it is read
        config = read_json(snapshot / CONFIG_FILE)
    needed = {CONFIG_FILE, GENERATOR_FILE}
    if isinstance(config, dict) and config.get("clip") == CLIP_FOLDER:
        needed |= {file for file in MODEL_FILES if file.startswith(f"{CLIP_FOLDER}/")}
    if isinstance(config, dict) and config.get("text_encoder"):
        needed |= {TEXT_ENCODER_FILE, VOCABULARY_FILE}
    needed |= {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_symlink()}
    missing = sorted(file for file in needed if not (snapshot / file).exists())
    if missing:
        raise WeightsError(
            f"only a part of {name} is in the cache, without {', '.join(missing)}: go online to download the rest; if "
            "the Hugging Face Hub has no more of it either, it is no model of ratlip."
        )


def _verify(name: str, snapshot: Path) -> None:
    """Compare the files of a snapshot with the hashes that the cache keeps as the names of their contents.

    A cache without links, as on Windows without its developer mode, has no such names: there nothing is compared.
    """
    for pointer in sorted(path for path in snapshot.rglob("*") if path.is_symlink()):
        content = pointer.parent / pointer.readlink()
        expected = content.name
        if re.fullmatch(r"[0-9a-f]{64}", expected):
            digest = hashlib.sha256()
        elif re.fullmatch(r"[0-9a-f]{40}", expected):
            digest = hashlib.sha1(f"blob {content.stat().st_size}\0".encode())  # as git names a file
        else:
            continue
        if hash_of(content, digest) != expected:
            pointer.unlink()
            for file in (content.resolve(), content):  # a link itself, where repositories share what they have
                file.unlink(missing_ok=True)
            raise WeightsError(
                f"{pointer.name} of {name} does not match its hash on the Hugging Face Hub, so it was damaged on the "
                "way or on this disk, and was removed: download it again."
            )


@contextmanager
def explained(name: str, failure: str) -> Iterator[None]:
    """Turn what huggingface_hub raises, or another library that calls it, into a WeightsError that says what to do.

    Args:
        name: owner/name[@revision], or what else was asked for.
        failure: what could not be done, the beginning of the line.
    """
    try:
        yield
    except RatlipError:
        raise
    except Exception as error:  # Errors of the connection come from whichever HTTP library the client uses.
        raise WeightsError(_advice(name, failure, error)) from error


def _advice(name: str, failure: str, error: Exception) -> str:
    repository, _, revision = name.partition("@")
    chain = list(_causes(error))
    codes = (getattr(getattr(cause, "response", None), "status_code", None) for cause in chain)
    status = next((code for code in codes if isinstance(code, int)), None)
    if _has(chain, errors.GatedRepoError):
        return f"{repository} on the Hugging Face Hub is gated: ask for access on its page, then run `hf auth login`."
    if _has(chain, errors.RepositoryNotFoundError):
        return (
            f"{repository} is neither a folder here nor a repository on the Hugging Face Hub that you may see. "
            "Check the name; for a private one run `hf auth login`."
        )
    if _has(chain, errors.RevisionNotFoundError):
        return f"{repository} on the Hugging Face Hub has no revision '{revision}': name a branch, tag or commit of it."
    if _has(chain, errors.HFValidationError):
        return f"'{name}' is not a name on the Hugging Face Hub: use owner/name or owner/name@revision."
    if status in _ADVICE:
        return f"{failure}: {_ADVICE[status]}"
    if status is not None and status >= 500:
        return f"{failure}: the Hugging Face Hub is out of order (status {status}). Try again later."
    if status is None and _has(chain, errors.OfflineModeIsEnabled):
        return f"{failure}: it is not in the cache, or only a part, and HF_HUB_OFFLINE is set. Go online: unset it."
    disk = next((cause for cause in chain if isinstance(cause, OSError) and cause.errno and cause.filename), None)
    if disk is not None:
        return f"{failure}: {disk.filename}: {disk.strerror}."
    if _has(chain, errors.LocalEntryNotFoundError, ConnectionError):
        return (
            f"{failure}: it is not in the cache, or only a part, and the Hugging Face Hub cannot be reached. Go online."
        )
    if type(error) is ValueError:  # what the client found wrong in what it was given, in several lines
        return f"{failure}: {one_line(error)}."
    return f"{failure} ({first_line(error)}). Check your connection and try again: what is complete is kept."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _has(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in chain)
