"""The networks whose features are compared, Inception in two editions and any CLIP, and which of them score.

A network takes 8-bit images, so that what a model generates is scored as its files would be.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from ratlip_cli.errors import WeightsError, unknown_name
from ratlip_cli.evaluation.request import FEATURES, EvaluationRequest
from ratlip_cli.model.clip import DEFAULT_CLIP, FrozenCLIP
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.pixels import from_uint8
from ratlip_cli.tensor_files import fingerprint, load_weights
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.model_folder import CLIP_FOLDER, Model

VIT_B_32 = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224)
"""The architecture that the CLIP score is defined by."""


class WeightsSource(NamedTuple):
    """Where the weights of a network are downloaded from."""

    network: str
    url: str
    other_names: tuple[str, ...] = ()  # Names of the same file in other packages' downloads.


INCEPTION = WeightsSource("Inception of 2015-12-05", URL_INCEPTION_V3, ("pt_inception-2015-12-05-6726825d.pth",))
IMAGENET_INCEPTION = WeightsSource(
    "torchvision's ImageNet Inception", torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.url
)


class FeatureNetwork(Protocol):
    """What makes features of images."""

    name: str
    """For people."""
    suffix: str
    """What follows the key of a metric of its features in the metric's name, such as `_clip`."""
    resize: str
    """How images come to the size that the network takes, in words."""
    fingerprint: str
    """16 hex digits over its weights."""
    dimensions: int
    """d."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B,d), float32, of images (B,3,H,W) uint8 on any device."""
        ...


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


class ClipNetwork:
    """A CLIP's image vectors, not normalised.

    Args:
        clip: on the device to compute on.
        spec: what names it in scores, as `load_clip` takes it, or whose it is.
        released: whether pixels are prepared as the published code does it: mapped to [0,1] twice, nearest pixels.
    """

    suffix = "_clip"

    def __init__(self, clip: FrozenCLIP, spec: str, released: bool = False) -> None:
        size = clip.geometry.image_size
        self.clip = clip
        self.spec = spec
        self.name = f"CLIP {spec} (released code)" if released else f"CLIP {spec}"
        self.resize = f"nearest to {size}, mapped to [0,1] twice" if released else f"antialiased bicubic to {size}"
        self.fingerprint = clip.fingerprint
        self.dimensions = clip.geometry.embed_dim
        self.released = released

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = from_uint8(images.to(self.clip.mean.device))
        if self.released:
            size = self.clip.geometry.image_size
            pixels = F.interpolate((pixels + 1) / 2, size=(size, size), mode="nearest")
        return self.clip.encode_image(pixels).cpu()


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


@dataclass(frozen=True)
class Networks:
    """The networks that score."""

    features: FeatureNetwork | None
    """For FID, KID, precision and recall."""
    clips: tuple[ClipNetwork, ...]
    """For CLIP score and R-precision, each for itself."""
    device: torch.device

    def by_name(self) -> dict[str, FeatureNetwork]:
        """All of them, by name."""
        return {network.name: network for network in (self.features, *self.clips) if network is not None}


def load_networks(request: EvaluationRequest, device: torch.device, model: Model | None = None) -> Networks:
    """Load the networks that a request needs.

    The CLIP is `request.clip` where that is given; else the model's own where its features are `clip` or it is a
    ViT-B/32; else OpenAI's ViT-B/32. The protocol `released` has an Inception of its own instead of `features`.

    Args:
        model: what is scored, if it is a model.

    Raises:
        UsageError: the model names unknown features. WeightsError: weights could not be downloaded, or are of another
            network.
    """
    features = request.features or (model.config.features if model is not None else "inception")
    if features not in FEATURES:
        raise unknown_name("features", features, FEATURES)
    by_clip = features == "clip" and not request.released
    network: FeatureNetwork | None = None
    clips: list[ClipNetwork] = []
    if request.feature_keys and not by_clip:
        weights = find_weights(IMAGENET_INCEPTION if request.released else INCEPTION, request.inception_weights)
        network = ImageNetInception(weights, device) if request.released else InceptionNetwork(weights, device)
    if request.clip_keys or (request.feature_keys and by_clip):
        clips.append(_scoring_clip(request, device, model, own=features == "clip"))
    if request.feature_keys and by_clip:
        network = clips[0]
    second = request.clip_score_clip
    if request.clip_keys and second is not None:
        clips.append(ClipNetwork(load_clip(second, device), second, request.released))
    return Networks(network, tuple(clips) if request.clip_keys else (), device)


def _scoring_clip(request: EvaluationRequest, device: torch.device, model: Model | None, own: bool) -> ClipNetwork:
    if request.clip is None and model is not None and (own or model.clip.geometry == VIT_B_32):
        name = f"of {model.name}" if model.config.clip == CLIP_FOLDER else model.config.clip
        return ClipNetwork(model.clip, name, request.released)
    spec = request.clip or DEFAULT_CLIP
    return ClipNetwork(load_clip(spec, device), spec, request.released)
