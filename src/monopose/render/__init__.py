"""Triangles to pictures without a display: face index, depth, normals, object coordinates, shading, scenes."""

from .maps import Lights, coordinates, interpolate, normals, positions, sample_texture, shade
from .raster import Fragments, rasterize, rasterize_reference
from .scene import SceneMasks, SceneRender, render_masks, render_scene

__all__ = [
    "Fragments",
    "Lights",
    "SceneMasks",
    "SceneRender",
    "coordinates",
    "interpolate",
    "normals",
    "positions",
    "rasterize",
    "rasterize_reference",
    "render_masks",
    "render_scene",
    "sample_texture",
    "shade",
]
