"""Poses from the outline of a known object: the last step of a photo's pose, and what `tracking` is made of."""
