"""Known objects followed through a video by their outlines, with the word when they are lost: `tracker.Tracker`."""
