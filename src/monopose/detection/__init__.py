"""Finding objects: boxes, scores, masks."""
