"""Commands that belong to no family, a file each; `cli` imports one when it is called."""
