"""One page of HTML with everything inside: pictures as data, no script, no link to anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #26262b; max-width: 1040px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #e2e2e8 }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: right }
th { border-bottom: 1px solid #6e6e76 }
td:first-child, th:first-child { text-align: left }
figure { margin: 1em 0 } figcaption { color: #6e6e76; font-size: .85em } img { max-width: 100% }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1em } .grid figure { margin: 0 }
.verdict { font-size: 1.25em; border-left: 4px solid #0072b2; padding-left: .8em }
nav a { margin-right: 1em }
"""


class Section(NamedTuple):
    """A part of a page: the name that links lead to, a heading, and HTML."""

    name: str
    heading: str
    body: str


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    links = "".join(f'<a href="#{s.name}">{escape(s.heading)}</a>' for s in sections)
    bodies = "\n".join(f'<section id="{s.name}"><h2>{escape(s.heading)}</h2>\n{s.body}\n</section>' for s in sections)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>\n<style>{STYLE}</style>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><h1>{escape(title)}</h1>\n<nav>{links}</nav>\n{bodies}\n</body></html>\n"
    )


def text(words: str, kind: str = "") -> str:
    """A paragraph."""
    return f'<p class="{kind}">{escape(words)}</p>' if kind else f"<p>{escape(words)}</p>"


def items(lines: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column stands left, numbers stand right."""
    cells = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{cells}</table>"


def figure(image: Image.Image, caption: str = "", photo: bool = False) -> str:
    """A picture with its caption: as JPEG if it is a photo, else as PNG."""
    buffer = io.BytesIO()
    if photo:
        image.convert("RGB").save(buffer, format="JPEG", quality=88)
    else:
        image.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    source = f"data:image/{'jpeg' if photo else 'png'};base64,{data}"
    legend = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(caption)}" src="{source}">{legend}</figure>'


def grid(figures: Iterable[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="grid">{"".join(figures)}</div>'
