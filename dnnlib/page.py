"""One self-contained page of headings, text, tables, charts and pictures.

Nothing from elsewhere: the file can be sent and opened anywhere. Without scripts the pictures of a
slider stand one below the other, and a page that is still written anew is loaded anew as well.
Every text is escaped here, so that file names and class names of other people's data cannot become
markup.
"""

import base64
import contextlib
import html
import io
import unicodedata
from dataclasses import dataclass

import numpy as np
from PIL import Image

SERIES_COLOURS = ("#3465a4", "#e57c23", "#4e9a06", "#75507b")
_BAR, _GAP, _CHART = 16, 8, 420  # thickness, space between groups, length of the longest bar
_LETTER = 7.5  # about the width of a letter of 13 px
WIDTH = 1100  # pixels of a page's column
RELOAD_SEC = 60
_EXACT_BYTES = 250_000  # most bytes of a picture without loss
_STYLE = """\
body { font: 15px/1.5 sans-serif; color: #1a1a1a; background: #fff; max-width: WIDTHpx;
       margin: 2em auto; padding: 0 1em; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { background: #f4f4f4; } th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: nowrap; }
.legend span { display: inline-block; margin-right: 1.2em; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 5px;
            outline: 1px solid #999; }
td.text { text-align: left; overflow-wrap: anywhere; }
svg { display: block; } svg text { font: 13px sans-serif; fill: #1a1a1a; }
figure { margin: 1em 0; overflow-x: auto; } img { display: block; image-rendering: pixelated; }
figcaption { color: #555; font-size: 13px; }
summary { cursor: pointer; margin: 0.6em 0; }
""".replace("WIDTH", str(WIDTH))
# Only in pages that have them.
_LINES_STYLE = """\
.charts { display: grid; gap: 0.6em 2%;
          grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
.charts figure { margin: 0; min-width: 0; overflow: visible; display: flex; flex-direction: column;
                 justify-content: space-between; }
.charts figcaption { color: #1a1a1a; } .charts .legend { margin: 0; }
.charts .legend span { margin-right: 1em; overflow-wrap: anywhere; }
svg.lines { width: 100%; height: auto; } svg.lines text { font-size: 12px; fill: #555; }
svg.lines polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
svg.lines line.rule { stroke: #e4e4e4; } svg.lines line.mark { stroke: #c8c8c8; }
svg.lines line.growth { stroke: #75507b; } svg.lines text.growth { fill: #75507b; }
svg.lines line.resume { stroke: #a40000; stroke-dasharray: 2 3; }
svg.lines text.resume { fill: #a40000; }
"""
_SLIDER_STYLE = """\
.slider { max-height: 85vh; overflow-y: auto; border: 1px solid #ccc; padding: 0 1em; }
.slider.moving { max-height: none; overflow-y: visible; border: 0; padding: 0; }
.slider label { display: none; } .slider.moving label { display: block; }
.slider input { width: 100%; margin: 0; }
.slider figcaption { font-variant-numeric: tabular-nums; }
"""
_STATE_STYLE = """\
.state { padding: 0.5em 1em; background: #f4f4f4; border-left: 6px solid #75507b; }
.state.running { border-color: #3465a4; } .state.finished { border-color: #4e9a06; }
.state.late { border-color: #a40000; }
"""
_SLIDER_SCRIPT = """\
document.querySelectorAll(".slider").forEach(function (box) {
  var range = box.querySelector("input"), figures = box.querySelectorAll("figure");
  function show() {
    figures.forEach(function (figure, i) { figure.hidden = i !== range.max - range.value; });
  }
  box.classList.add("moving");
  range.addEventListener("input", show);
  show();
});
"""
# A page that is loaded anew shows the picture that was in view, and the newest where that was the
# newest. Browsers may refuse to keep anything: then it begins anew.
_RELOAD_SCRIPT = """\
(function () {
  var box = document.querySelector(".state"), written = Number(box.dataset.written);
  var late = Number(box.dataset.late), ago = box.querySelector("span");
  var key = "shown in " + location.pathname, ranges = document.querySelectorAll(".slider input");
  var folds = document.querySelectorAll("details");
  function captions(range) {
    var all = range.closest(".slider").querySelectorAll("figcaption");
    return Array.from(all, function (caption) { return caption.textContent; }).reverse();
  }
  function age() {
    var sec = Math.max(Date.now() / 1000 - written, 0);
    var unit = [[86400, "days"], [3600, "hours"], [60, "minutes"], [0, "seconds"]]
      .find(function (unit) { return sec >= 2 * unit[0]; });
    box.classList.toggle("late", late > 0 && sec > late);
    ago.textContent = ", " + Math.round(sec / (unit[0] || 1)) + " " + unit[1] + " ago";
    if (box.matches(".late")) box.querySelector("b").textContent = "killed, or hangs; running";
  }
  try {
    var kept = JSON.parse(sessionStorage.getItem(key)) || { ranges: [], folds: [] };
    ranges.forEach(function (range, i) {
      var place = captions(range).indexOf(kept.ranges[i]);
      if (place >= 0) { range.value = place; range.dispatchEvent(new Event("input")); }
    });
    folds.forEach(function (fold, i) { if (kept.folds[i]) fold.open = true; });
  } catch (error) { }
  window.addEventListener("pagehide", function () {
    try {
      sessionStorage.setItem(key, JSON.stringify({
        ranges: Array.from(ranges, function (range) {
          return range.value === range.max ? null : captions(range)[range.value];
        }),
        folds: Array.from(folds, function (fold) { return fold.open; })
      }));
    } catch (error) { }
  });
  age();
  setInterval(age, 5000);
  setInterval(function () { if (!document.hidden) location.reload(); }, RELOAD * 1000);
})();
""".replace("RELOAD", str(RELOAD_SEC))


class Page:
    """Sections are added from the top down; `render` gives the whole file's text."""

    def __init__(self, title):
        self._title, self._parts = title, []
        self._styles, self._scripts, self._head = [_STYLE], [], ""
        self._add("h1", title)

    def _add(self, tag, content):
        self._parts.append(f"<{tag}>{escape(content)}</{tag}>")

    def heading(self, content):
        """A heading of a section."""
        self._add("h2", content)

    def text(self, content):
        """A paragraph."""
        self._add("p", content)

    def state(self, name, text):
        """Say in a frame, coloured by a name such as 'finished', how it is with what is shown."""
        self._state(name, text, "", "")

    def running(self, text, note, written, late_sec):
        """The same of what is running: the page is loaded anew every minute, and says its age.

        Args:
            text: how old the page is in seconds, minutes, ... follows it; then comes the `note`.
            written: seconds since 1970. late_sec: age at which the page says that nothing runs any
                more; 0 for never.
        """
        self._use(self._scripts, _RELOAD_SCRIPT)
        self._head = f'<noscript><meta http-equiv="refresh" content="{RELOAD_SEC}"></noscript>\n'
        self._state("running", text, f"<span></span>. {escape(note)}",
                    f' data-written="{written:.0f}" data-late="{late_sec:.0f}"')

    def _state(self, name, text, more, attributes):
        self._use(self._styles, _STATE_STYLE)
        self._parts.append(f'<p class="state {escape(name)}"{attributes}><b>{escape(name)}</b> '
                           f"{escape(text)}{more}</p>")

    @contextlib.contextmanager
    def folded(self, title):
        """What is added inside is seen when one asks for it."""
        self._parts.append(f"<details><summary>{escape(title)}</summary>")
        yield
        self._parts.append("</details>")

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

    def picture(self, encoded, caption):
        """An Encoded picture, pixel by pixel; one wider than the page scrolls."""
        self._parts.append(_figure(encoded, caption))

    def charts(self, charts):
        """Line charts (dnnlib.curves.Chart) side by side where there is room, legends above."""
        self._use(self._styles, _LINES_STYLE)
        self._parts.append('<div class="charts">')
        for chart in charts:
            entries = (f'<span><i style="background: {colour}"></i>{escape(text)}</span>'
                       for colour, text in chart.legend())
            self._parts.append(
                f'<figure><figcaption><b>{escape(chart.title)}</b><div class="legend">'
                + "\n".join(entries) + f"</div></figcaption>{chart.svg()}</figure>")
        self._parts.append("</div>")

    def slider(self, name, pictures):
        """Pictures [(Encoded, caption)] of which a slider shows one, first the last.

        Without scripts all of them are in a box that scrolls, the last on top.
        """
        self._use(self._styles, _SLIDER_STYLE)
        self._use(self._scripts, _SLIDER_SCRIPT)
        last = len(pictures) - 1
        self._parts += [
            f'<div class="slider"><label>{escape(name)} <input type="range" min="0" max="{last}" '
            f'value="{last}" step="1" autocomplete="off"></label>',
            *(_figure(encoded, caption) for encoded, caption in reversed(pictures)), "</div>"]

    def size(self):
        """Bytes of what was added so far."""
        return sum(map(len, self._parts))

    @staticmethod
    def _use(parts, part):
        """Styles and scripts stand in a page once."""
        if part not in parts:
            parts.append(part)

    def render(self):
        """The text of the file."""
        head = (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f"<title>{escape(self._title)}</title>\n{self._head}"
                f"<style>\n{''.join(self._styles)}</style>\n</head>\n<body>")
        scripts = [f"<script>\n{''.join(self._scripts)}</script>"] * bool(self._scripts)
        return "\n".join([head, *self._parts, *scripts, "</body>\n</html>\n"])


@dataclass(frozen=True)
class Encoded:
    """A picture file's bytes, its kind ('WEBP' or 'JPEG') and its size in pixels."""

    content: bytes
    kind: str
    width: int
    height: int

    @classmethod
    def of(cls, pixels):
        """Encode uint8 [H, W, 3]: without loss where that is small, as of enlarged pixels."""
        # A JPEG's colours at full resolution: maps have sharp borders.
        for kind, options in (("WEBP", {"lossless": True, "method": 2}),
                              ("JPEG", {"quality": 88, "subsampling": 0})):
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
            if len(buffer.getvalue()) <= _EXACT_BYTES:
                break
        return cls(buffer.getvalue(), kind, pixels.shape[1], pixels.shape[0])


def _figure(encoded, caption):
    """A picture with a line below."""
    content = base64.b64encode(encoded.content).decode()
    return (f'<figure><img alt="{escape(caption)}" width="{encoded.width}" '
            f'height="{encoded.height}" src="data:image/{encoded.kind.lower()};base64,{content}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


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
