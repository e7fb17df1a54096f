"""Azimuth, elevation and in-plane rotation of a class of objects."""
