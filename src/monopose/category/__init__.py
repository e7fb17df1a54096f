"""Pose and shape of a class of objects without a CAD model, by analysis-by-synthesis."""
