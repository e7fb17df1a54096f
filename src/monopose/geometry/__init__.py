"""Pure functions on tensors: rotations, rigid motions, cameras, boxes, symmetries, viewpoints."""

from . import boxes, camera, plausible, rotation, se3, symmetry, viewpoints

__all__ = ["boxes", "camera", "plausible", "rotation", "se3", "symmetry", "viewpoints"]
