"""One self-contained page of headings, text, tables, bar charts and pictures.

No scripts and nothing from elsewhere: the file can be sent and opened anywhere. Every text is
escaped here, so that file names and class names of other people's data cannot become markup.
"""

import base64
import html
import io
import unicodedata

import numpy as np
from PIL import Image

SERIES_COLOURS = ("#3465a4", "#e57c23", "#4e9a06", "#75507b")
_BAR, _GAP, _CHART = 16, 8, 420  # thickness, space between groups, length of the longest bar
_LETTER = 7.5  # about the width of a letter of 13 px
_STYLE = """\
body { font: 15px/1.5 sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px;
       margin: 2em auto; padding: 0 1em; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { background: #f4f4f4; } th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: nowrap; }
.legend span { display: inline-block; margin-right: 1.2em; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; }
td.text { text-align: left; overflow-wrap: anywhere; }
svg { display: block; } svg text { font: 13px sans-serif; fill: #1a1a1a; }
img { max-width: 100%; height: auto; } figure { margin: 1em 0; }
figcaption { color: #555; font-size: 13px; }
"""


class Page:
    """Sections are added from the top down; `render` gives the whole file's text."""

    def __init__(self, title):
        self._title, self._parts = title, []
        self._add("h1", title)

    def _add(self, tag, content):
        self._parts.append(f"<{tag}>{escape(content)}</{tag}>")

    def heading(self, content):
        """A heading of a section."""
        self._add("h2", content)

    def text(self, content):
        """A paragraph."""
        self._add("p", content)

    def table(self, head, rows, shades=None):
        """A table of texts and numbers; rows are as long as the head.

        Args:
            head: what stands above the columns; empty texts for nothing.
            shades: None, or for each row a list of strengths 0..1, one a cell, of its background.

        Raises ValueError for a row of another length.
        """
        lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"] \
            if any(head) else []
        for number, row in enumerate(rows):
            if len(row) != len(head):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(head)}")
            strengths = shades[number] if shades is not None else [0] * len(row)
            cells = (_cell(cell, shade) for cell, shade in zip(row, strengths, strict=True))
            lines.append("<tr>" + "".join(cells) + "</tr>")
        self._parts.append('<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>")

    def bars(self, names, series, form="{:g}"):
        """Horizontal bars: a group for each name, in it a bar for each of `series`.

        Args:
            series: {legend: values [len(names)]}, finite and none negative.
            form: format of the value behind each bar.
        """
        self._parts.append('<div class="wide">' + bar_chart(names, series, form) + "</div>")

    def legend(self, colours):
        """Names beside squares of their colours: {name: (red, green, blue) of 0..255}."""
        entries = (f'<span><i style="background: rgb({red:d}, {green:d}, {blue:d})"></i>'
                   f"{escape(name)}</span>" for name, (red, green, blue) in colours.items())
        self._parts.append('<p class="legend">' + "\n".join(entries) + "</p>")

    def picture(self, pixels, caption, kind="PNG"):
        """A picture uint8 [H, W, 3] as part of the page: kind PNG (exact) or JPEG (small)."""
        buffer = io.BytesIO()
        # Colours at full resolution: maps have sharp borders.
        options = {"quality": 88, "subsampling": 0} if kind == "JPEG" else {}
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
        content = base64.b64encode(buffer.getvalue()).decode()
        self._parts.append(
            f'<figure><img alt="{escape(caption)}" width="{pixels.shape[1]}" '
            f'height="{pixels.shape[0]}" src="data:image/{kind.lower()};base64,{content}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")

    def render(self):
        """The text of the file."""
        head = (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f"<title>{escape(self._title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>")
        return "\n".join([head, *self._parts, "</body>\n</html>\n"])


def escape(content):
    """Any value as text of a page: markup escaped, control characters and surrogates shown."""
    shown = (f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
             for c in str(content))
    return html.escape("".join(shown))


def _cell(content, shade):
    """A cell of a table: numbers right, texts left, a blue background of strength `shade`."""
    number = isinstance(content, (int, float, np.number))
    kind = "" if number else ' class="text"'
    style = f' style="background: rgba(52, 101, 164, {0.6 * shade:.3f})"' if shade else ""
    shown = f"{content:.6g}" if isinstance(content, (float, np.floating)) else content
    return f"<td{kind}{style}>{escape(shown)}</td>"


def bar_chart(names, series, form="{:g}"):
    """Horizontal bars as an SVG element; see Page.bars. Raises ValueError for other values."""
    values = np.array(list(series.values()), np.float64).reshape(len(series), len(names))
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("bars of values that are negative or not finite")
    left = 2 * _GAP + _LETTER * max((len(str(name)) for name in names), default=0)
    group, top = _BAR * len(series) + _GAP, 2 * _BAR if len(series) > 1 else 0
    scale = _CHART / max(values.max(initial=0), 1e-12)
    parts = list(_legend(series, left)) if len(series) > 1 else []
    for i, name in enumerate(names):
        y = top + i * group
        middle = y + (group - _GAP) / 2 + 4.5
        parts.append(f'<text x="{left - _GAP:g}" y="{middle:g}" text-anchor="end">'
                     f"{escape(name)}</text>")
        for k, value in enumerate(values[:, i].tolist()):
            length, edge = value * scale, y + k * _BAR
            parts.append(f'<rect x="{left:g}" y="{edge + 1}" width="{length:.1f}" '
                         f'height="{_BAR - 2}" fill="{SERIES_COLOURS[k % len(SERIES_COLOURS)]}"/>')
            parts.append(f'<text x="{left + length + 4:.1f}" y="{edge + 12.5:g}">'
                         f"{escape(form.format(value))}</text>")
    width, height = left + _CHART + 12 * _LETTER, top + group * len(names)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:g}" '
            f'height="{height:g}" viewBox="0 0 {width:g} {height:g}">' + "\n".join(parts)
            + "</svg>")


def _legend(series, left):
    """Squares in the series' colours with their names, in one line."""
    x = left
    for k, name in enumerate(series):
        yield (f'<rect x="{x:g}" y="4" width="12" height="12" '
               f'fill="{SERIES_COLOURS[k % len(SERIES_COLOURS)]}"/>'
               f'<text x="{x + 18:g}" y="15">{escape(name)}</text>')
        x += 36 + _LETTER * len(str(name))
