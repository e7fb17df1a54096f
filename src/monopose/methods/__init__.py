"""One file, one method: a frozen `Config`, a `Model`, `loss(model, output, batch)` and `predict`. They never import each other."""
