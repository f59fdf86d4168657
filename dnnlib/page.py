"""Build a self-contained page of headings, text, tables, charts and pictures.

Nothing is loaded from elsewhere, and scripts are not needed: without them, a slider is a box that
scrolls. Every text is escaped here, so that names in other people's data cannot become markup.
"""

import base64
import contextlib
import html
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH = 1100  # pixels of a page's column
RELOAD_SEC = 60
_STYLE, _SCRIPT = (Path(__file__).with_suffix(suffix) for suffix in (".css", ".js"))
_EXACT_BYTES = 250_000  # largest size of a lossless picture


class Page:
    """A page. Sections are added from the top down; `render` returns the text of the file."""

    def __init__(self, title: str):
        self._title, self._parts = title, [f"<h1>{escape(title)}</h1>"]
        self._head, self._has_script = "", False

    def heading(self, content: str):
        """Add the heading of a section."""
        self._parts.append(f"<h2>{escape(content)}</h2>")

    def text(self, content: str):
        """Add a paragraph."""
        self._parts.append(f"<p>{escape(content)}</p>")

    def state(self, name: str, text: str, more: str = "", attributes: str = ""):
        """Add a frame with a state, coloured by its name ('finished'). `more` is markup after the
        text, `attributes` are those of the frame."""
        self._parts.append(f'<p class="state {escape(name)}"{attributes}><b>{escape(name)}</b> '
                           f"{escape(text)}{more}</p>")

    def running(self, text: str, note: str, written: float, late_sec: float):
        """Add the frame of a running process. The page reloads every minute and shows, between
        `text` and `note`, how long ago it was `written` (seconds since 1970). If that is more than
        `late_sec` (0: never), it reports that nothing runs any more."""
        self._has_script = True
        self._head = f'<noscript><meta http-equiv="refresh" content="{RELOAD_SEC}"></noscript>\n'
        self.state("running", text, f"<span></span>. {escape(note)}",
                   f' data-written="{written:.0f}" data-late="{late_sec:.0f}"')

    @contextlib.contextmanager
    def folded(self, title: str):
        """Hide what is added inside until the reader opens it."""
        self._parts.append(f"<details><summary>{escape(title)}</summary>")
        yield
        self._parts.append("</details>")

    def table(self, head: list, rows: list, shades: list | None = None):
        """Add a table of texts and numbers.

        Args:
            head: titles of the columns; all empty for none.
            shades: None, or for each row a list with the strength 0..1 of each cell's background.

        Raises:
            ValueError: a row or its shades are not as long as the head.
        """
        lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"] \
            if any(head) else []
        shades = [[0] * len(head)] * len(rows) if shades is None else shades
        for row, strengths in zip(rows, shades, strict=True):
            cells = (_cell(cell, shade) for _, cell, shade
                     in zip(head, row, strengths, strict=True))
            lines.append("<tr>" + "".join(cells) + "</tr>")
        self._parts.append('<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>")

    def legend(self, colours: dict):
        """Add names beside squares of their colours: {name: CSS colour}."""
        self._parts.append(f'<p class="legend">{_legend(colours)}</p>')

    def chart(self, svg: str):
        """Add a chart that labels its parts itself; if it is wider than the page, it scrolls."""
        self._parts.append(f'<div class="wide">{svg}</div>')

    def charts(self, charts: list):
        """Add charts [(title, {legend: colour}, SVG element)], side by side where there is room."""
        self._parts += ['<div class="charts">', *(
            f'<figure><figcaption><b>{escape(title)}</b><div class="legend">{_legend(colours)}'
            f"</div></figcaption>{svg}</figure>" for title, colours, svg in charts), "</div>"]

    def picture(self, encoded: "Encoded", caption: str):
        """Add a picture at its size in pixels; if it is wider than the page, it scrolls."""
        content = base64.b64encode(encoded.content).decode()
        self._parts.append(
            f'<figure><img alt="{escape(caption)}" width="{encoded.width}" '
            f'height="{encoded.height}" src="data:image/{encoded.kind.lower()};base64,{content}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")

    def slider(self, name: str, pictures: list):
        """Add pictures [(Encoded, caption)] of which a slider shows one, the last at first."""
        self._has_script, last = True, len(pictures) - 1
        self._parts.append(
            f'<div class="slider"><label>{escape(name)} <input type="range" min="0" max="{last}" '
            f'value="{last}" step="1" autocomplete="off"></label>')
        for encoded, caption in reversed(pictures):
            self.picture(encoded, caption)
        self._parts.append("</div>")

    def size(self) -> int:
        """Return the number of characters added so far."""
        return sum(map(len, self._parts))

    def render(self) -> str:
        """Return the text of the file."""
        head = (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f"<title>{escape(self._title)}</title>\n{self._head}"
                f"<style>\n{_STYLE.read_text()}</style>\n</head>\n<body>")
        script = [f"<script>\n{_SCRIPT.read_text()}</script>"] * self._has_script
        return "\n".join([head, *self._parts, *script, "</body>\n</html>\n"])


@dataclass(frozen=True)
class Encoded:
    """A picture file's bytes, its kind ('WEBP' or 'JPEG') and its size in pixels."""

    content: bytes
    kind: str
    width: int
    height: int

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Encoded":
        """Encode uint8 [H, W, 3], without loss if the result is small, as for enlarged pixels."""
        # JPEGs keep colours at full resolution, as maps have sharp borders.
        for kind, options in (("WEBP", {"lossless": True, "method": 2}),
                              ("JPEG", {"quality": 88, "subsampling": 0})):
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
            if len(buffer.getvalue()) <= _EXACT_BYTES:
                break
        return cls(buffer.getvalue(), kind, pixels.shape[1], pixels.shape[0])


def escape_controls(content: object) -> str:
    """Return any value as text, with control characters and surrogates made visible."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
                   for c in str(content))


def escape(content: object) -> str:
    """Return any value as text for a page: markup escaped, control characters made visible."""
    return html.escape(escape_controls(content))


def _legend(colours):
    return "\n".join(f'<span><i style="background: {colour}"></i>{escape(name)}</span>'
                     for name, colour in colours.items())


def _cell(content, shade):
    """Return a cell: numbers at the right, texts at the left, a blue background of this shade."""
    number = isinstance(content, (int, float, np.number))
    kind = "" if number else ' class="text"'
    style = f' style="background: rgba(52, 101, 164, {0.6 * shade:.3f})"' if shade else ""
    shown = f"{content:.6g}" if isinstance(content, (float, np.floating)) else content
    return f"<td{kind}{style}>{escape(shown)}</td>"
