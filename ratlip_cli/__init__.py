"""ratlip: text-to-image GANs on frozen CLIP (RATLIP, GALIP).

>>> import ratlip_cli as ratlip
>>> model = ratlip.load_model("ratlip-demo")
>>> images = model.generate("a red bird with black wings", n=8, seed=0)

`ratlip_cli.api` has the functions; importing this package, and making a request, imports no torch. The command line is
`ratlip_cli.cli`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ratlip_cli.api import (
        EditRequest,
        EvaluationRequest,
        GradCamRequest,
        Images,
        LatentRequest,
        Model,
        Run,
        edit,
        evaluate,
        gradcam,
        latent_view,
        load_model,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "EditRequest",
    "EvaluationRequest",
    "GradCamRequest",
    "Images",
    "LatentRequest",
    "Model",
    "Run",
    "__version__",
    "edit",
    "evaluate",
    "gradcam",
    "latent_view",
    "load_model",
    "train",
]

_REQUESTS = {
    "EditRequest": "ratlip_cli.editing.request",
    "EvaluationRequest": "ratlip_cli.evaluation.request",
    "GradCamRequest": "ratlip_cli.explain.request",
    "LatentRequest": "ratlip_cli.explain.request",
}
"""Where requests are, which need no torch."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_REQUESTS.get(name, "ratlip_cli.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
