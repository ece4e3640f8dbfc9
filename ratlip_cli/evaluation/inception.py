"""Inception in two editions, the networks of FID and KID. Importing them takes as long as importing PyTorch does."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from ratlip_cli.errors import WeightsError
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.tensor_files import fingerprint, load_weights


class WeightsSource(NamedTuple):
    """Where the weights of a network are downloaded from."""

    network: str
    url: str
    other_names: tuple[str, ...] = ()  # Names of the same file in other packages' downloads.


INCEPTION = WeightsSource("Inception of 2015-12-05", URL_INCEPTION_V3, ("pt_inception-2015-12-05-6726825d.pth",))
IMAGENET_INCEPTION = WeightsSource(
    "torchvision's ImageNet Inception", torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.url
)


class InceptionNetwork:
    """torch-fidelity's Inception of 2015-12-05 with its own resize: the features of FID and KID.

    Args:
        weights: file of the weights; see `find_weights`.

    Raises WeightsError where the file holds anything else.
    """

    name = "Inception 2015-12-05"
    suffix = ""
    resize = "TensorFlow's bilinear to 299, by torch-fidelity"
    dimensions = 2048

    def __init__(self, weights: Path, device: torch.device) -> None:
        tensors = load_weights(weights)
        self.fingerprint = fingerprint(tensors)
        trusted = io.BytesIO()  # torch-fidelity unpickles whatever it is given
        torch.save(dict(tensors), trusted)
        trusted.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=trusted)
        except RuntimeError as error:
            raise _wrong_weights(weights, INCEPTION) from error
        self._device = device
        self._network = network.to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        features: Tensor = self._network(images.to(self._device))[0]
        return features.cpu()


class ImageNetInception:
    """The Inception of the published GALIP and RATLIP code, for the protocol `released` only.

    torchvision's network and weights; pixels in [0,1] are resized and then shifted by ImageNet's mean and deviation
    although the weights want them in [-1,1]. Arguments and errors are those of `InceptionNetwork`.
    """

    name = "ImageNet Inception (released code)"
    suffix = "_released"
    resize = "bilinear to 299, then x*(std/0.5) + (mean-0.5)/0.5"
    dimensions = 2048

    _MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, weights: Path, device: torch.device) -> None:
        tensors = load_weights(weights)
        self.fingerprint = fingerprint(tensors)
        network = torchvision.models.inception_v3(weights=None, transform_input=False, init_weights=False)
        try:
            network.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise _wrong_weights(weights, IMAGENET_INCEPTION) from error
        network.fc = nn.Identity()
        self._device = device
        self._network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._mean, self._std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (self._MEAN, self._STD))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float() / 255
        pixels = F.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)
        features: Tensor = self._network(pixels * (self._std / 0.5) + (self._mean - 0.5) / 0.5)
        return features.cpu()


def load_inception(request: EvaluationRequest, device: torch.device) -> InceptionNetwork | ImageNetInception:
    """The Inception of a request's protocol. Raises WeightsError where its weights cannot be had, or are others."""
    weights = find_weights(IMAGENET_INCEPTION if request.released else INCEPTION, request.inception_weights)
    return ImageNetInception(weights, device) if request.released else InceptionNetwork(weights, device)


def find_weights(source: WeightsSource, file: Path | None = None) -> Path:
    """The file with a network's weights: the user's own, or where the library that knows the network keeps it.

    Args:
        file: what `--inception-weights` was given.

    Raises WeightsError where the download fails, with the way to get the file by hand.
    """
    if file is not None:
        return file
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = source.url.rpartition("/")[2]
    for known in (name, *source.other_names):
        if (folder / known).is_file():
            return folder / known
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(source.url, str(folder / name), digits and digits[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights of the {source.network} could not be downloaded ({error}). Get {source.url} where there is "
            f"internet and give it with --inception-weights FILE, or put it into {folder}; or choose --features clip."
        ) from error
    return folder / name


def _wrong_weights(file: Path, source: WeightsSource) -> WeightsError:
    return WeightsError(f"{file} does not hold the weights of the {source.network}; get them from {source.url}.")
