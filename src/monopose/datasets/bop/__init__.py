"""BOP folders in and out: scenes, models, result files; the only place that knows millimetres."""
