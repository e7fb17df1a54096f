"""What stands and moves on roads, as nuScenes names it: classes, their sizes, their attributes."""

CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier",
)  # fmt: skip
SIZES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "car": ((4.62, 1.73, 1.96), (0.46, 0.24, 0.16)),
    "truck": ((6.94, 2.84, 2.52), (2.11, 0.84, 0.45)),
    "trailer": ((12.56, 3.89, 2.94), (4.50, 0.77, 0.54)),
    "bus": ((11.22, 3.50, 2.95), (2.06, 0.49, 0.33)),
    "construction_vehicle": ((6.68, 3.21, 2.85), (3.23, 0.93, 1.07)),
    "bicycle": ((1.70, 1.29, 0.61), (0.26, 0.35, 0.16)),
    "motorcycle": ((2.11, 1.46, 0.78), (0.33, 0.29, 0.17)),
    "pedestrian": ((0.73, 1.77, 0.67), (0.19, 0.19, 0.14)),
    "traffic_cone": ((0.41, 1.08, 0.41), (0.14, 0.27, 0.13)),
    "barrier": ((0.50, 0.99, 2.52), (0.17, 0.15, 0.62)),
}
"""Means and standard deviations of length, height, width, metres. Source: EPro-PnP-Det's size code, from nuScenes."""

ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down",
    "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip
ATTRIBUTES_OF = {  # class -> the attributes it can have
    **dict.fromkeys(CLASSES[:5], (5, 6, 7)),
    "bicycle": (0, 1),
    "motorcycle": (0, 1),
    "pedestrian": (2, 3, 4),
    "traffic_cone": (),
    "barrier": (),
}
