"""The families of models, by name. Importing it imports no torch: what builds networks imports them."""

from __future__ import annotations

from ratlip_cli.errors import unknown_name
from ratlip_cli.families.attngan import AttnGAN, ReleasedAttnGAN
from ratlip_cli.families.dfgan import DFGAN, DFGAN2020, DFGANReleased
from ratlip_cli.families.lafite import Lafite, LafiteReleased
from ratlip_cli.families.ratgan import FLOWER, RATGAN, RATGANReleased
from ratlip_cli.families.ratlip import Ratlip
from ratlip_cli.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Ratlip("ratlip", "RATLIP: recurrent affine transformations with one shared LSTM, and shuffle attention"),
        Ratlip("rat", "RATLIP without shuffle attention"),
        Ratlip("galip", "GALIP: conditional affine transformations, the baseline of RATLIP"),
        Ratlip(
            "ratlip-released",
            "RATLIP as its authors' code builds it: an LSTM for each affine, and shuffle attention",
        ),
        DFGAN(),
        DFGANReleased(),
        DFGAN2020(),
        RATGAN(),
        RATGANReleased("ratgan-released", "RAT-GAN as its authors' code builds it, on DAMSM's sentence vectors"),
        RATGANReleased(FLOWER, "RAT-GAN of flowers as its authors' code builds it, with six affines a block"),
        AttnGAN(),
        ReleasedAttnGAN(),
        Lafite(),
        LafiteReleased(),
    )
}


def family_of(name: str) -> Family:
    """The family of that name. Raises UsageError, with the nearest right one, for another name."""
    if name not in FAMILIES:
        raise unknown_name("variant", name, FAMILIES)
    return FAMILIES[name]
