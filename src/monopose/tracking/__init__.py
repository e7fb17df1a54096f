"""Known objects followed through a video by their outlines, with the word when they are lost."""

from .tracker import Track, Tracker

__all__ = ["Track", "Tracker"]
