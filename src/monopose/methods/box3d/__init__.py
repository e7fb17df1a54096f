"""Boxes in 3D from one picture of a road: where, how large, which way, how fast, and how sure.

A head finds objects by the middle of their volume. Each object then looks at points of its own choice and says, for every
one, which point of the object's box it is and how much that counts. PnP with four degrees of freedom turns this into a density
over positions and yaws (`pnp.sample_posterior`), and the loss asks that the true pose be likely.

`Config.layer` puts two simpler heads into the same network, to compare with: "reprojection" makes every point responsible for
itself, without a distribution of poses; "direct" regresses depth and yaw without PnP.

Source: Chen et al., EPro-PnP (CVPR 2022), sec. 4.2, EPro-PnP-Det, and its second version.
"""

from .config import (
    PRESETS,
    SMALLEST,
    Z_MIN,
    Config,
    Size,
    basic,
    coord_regr,
    decode_sizes,
    encode_sizes,
    score_target,
    small,
    v2,
)
from .inference import Boxes, Fitted, centred, fit, mirrored_K, mirrored_pose, placed, predict, score_map, spread
from .losses import loss, mixture_nll, reprojection_nll
from .network import Look, Model, Output, bounds_of
from .targets import Truth, truths

__all__ = [
    "PRESETS", "SMALLEST", "Z_MIN", "Boxes", "Config", "Fitted", "Look", "Model", "Output", "Size", "Truth", "basic",
    "bounds_of", "centred", "coord_regr", "decode_sizes", "encode_sizes", "fit", "loss", "mirrored_K", "mirrored_pose",
    "mixture_nll", "placed", "predict", "reprojection_nll", "score_map", "score_target", "small", "spread", "truths", "v2",
]  # fmt: skip
