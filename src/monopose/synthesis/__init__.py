"""Pictures made in code: scenes, camera effects, whole data sets."""
