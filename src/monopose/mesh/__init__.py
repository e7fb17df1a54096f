"""Mesh files to models in metres, what is wrong with them, and their symmetries."""

from .loading import load_mesh

__all__ = ["load_mesh"]
