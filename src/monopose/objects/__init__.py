"""Known CAD objects: detector, coordinates, PnP, refinement."""
