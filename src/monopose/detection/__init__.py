"""Finding known objects in a picture."""

LEAST_SCORE = 0.2  # of what a detector finds; average precision profits from lower ones, time from higher ones
