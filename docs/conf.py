"""Sphinx: `make docs` builds docs/_build/html of these pages, of the tutorials, and of the docstrings."""

from pathlib import Path

import jupytext

import monopose

project = "monopose"
copyright = "the monopose authors, Apache-2.0"
release = version = monopose.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"monopose {release}"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False


def _tutorials(app):
    """Of every tutorials/NAME.py, which is what runs in the tests, a page and a notebook."""
    for file in sorted((Path(app.srcdir) / "tutorials").glob("*.py")):
        notebook = jupytext.read(file)
        jupytext.write(notebook, file.with_suffix(".ipynb"))
        cells = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in notebook.cells]
        words = "Where a line says `# tests:`, the test suite takes what stands behind it."
        cells.insert(1, f"[As a notebook]({file.stem}.ipynb), [as a program]({file.name}). {words}")
        file.with_suffix(".md").write_text("\n\n".join(cells) + "\n", encoding="utf-8")


def setup(app):
    app.connect("builder-inited", _tutorials)
