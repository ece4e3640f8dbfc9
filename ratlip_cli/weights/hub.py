"""Model folders on the Hugging Face Hub, through huggingface_hub: its cache, token, offline mode and progress."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import ratlip_cli
from ratlip_cli.errors import WeightsError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""owner/name or owner/name@revision"""

FETCHED = ["*.json", "*.safetensors"]
"""Nothing else is downloaded: no pickle, no code."""


def fetch(name: str) -> Path:
    """The local copy of a model folder `owner/name[@revision]`, downloaded where it is not in the cache yet.

    Raises WeightsError with one line that says whether to log in, ask for access, go online or pick another name.
    """
    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=FETCHED,
                library_name="ratlip",
                library_version=ratlip_cli.__version__,
            )
        )
    except GatedRepoError as error:
        raise WeightsError(
            f"{repository} on the Hugging Face Hub is gated: ask for access on its page, then run `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{repository} is neither a folder here nor a repository on the Hugging Face Hub that you may see. "
            "Check the name; for a private one run `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} on the Hugging Face Hub has no revision '{revision}'.") from error
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{name} is not a folder here, not in the cache, and the Hugging Face Hub cannot be reached: go online."
        ) from error
    except HFValidationError as error:
        raise WeightsError(
            f"'{name}' is not a name on the Hugging Face Hub: use owner/name or owner/name@revision."
        ) from error
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{name} could not be fetched from the Hugging Face Hub ({reason}). Try again later."
        ) from error
