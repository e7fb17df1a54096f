"""Boxes in 3D from one picture of a road: where, how large, which way, how fast, and how sure.

A head finds objects by the middle of their volume. Each object then looks at points of its own choice and says, for every
one, which point of the object's box it is and how much that counts. PnP with four degrees of freedom turns this into a density
over positions and yaws (`pnp.sample_posterior`), and the loss asks that the true pose be likely.

`Config.layer` puts two simpler heads into the same network, to compare with: "reprojection" makes every point responsible for
itself, without a distribution of poses; "direct" regresses depth and yaw without PnP.

Source: Chen et al., EPro-PnP (CVPR 2022), sec. 4.2, EPro-PnP-Det, and its second version.
"""
