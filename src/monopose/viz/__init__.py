"""Pictures for people: overlays, maps, posteriors, contact sheets. Pillow images come out."""

from .canvas import object_color, probability_color, to_picture
from .poses import contact_sheet, coordinate_image, draw, draw_detections, draw_samples, save_sheet, side_by_side, value_image
from .posterior import orientation_density, translation_scatter
from .reliability import reliability_diagram

__all__ = [
    "contact_sheet", "coordinate_image", "draw", "draw_detections", "draw_samples", "object_color", "orientation_density",
    "probability_color", "reliability_diagram", "save_sheet", "side_by_side", "to_picture", "translation_scatter",
    "value_image",
]  # fmt: skip
