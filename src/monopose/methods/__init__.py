"""One file, one method: frozen `Config`, `Model`, `loss(model, output, batch)`, `predict`. They never import each other."""
