"""Pages and their charts read back into numbers, by a parser that knows only the page."""

from html.parser import HTMLParser

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 250, 64, 12, 32, 34  # of a chart and its margins
VOID = {"meta", "img", "rect", "line", "circle", "polyline", "input"}


class PageReader(HTMLParser):
    """Tags with their attributes, text, and whether tags close in order; charts by title."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open, self.charts = [], "", [], {}
        self.chart = self.curve = None
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "svg" and attributes.get("class") == "lines":
            self.chart = {"curves": {}, "marks": [], **attributes}
            self.charts[attributes["aria-label"]] = self.chart
        elif tag == "polyline":
            points = [tuple(map(float, p.split(","))) for p in attributes["points"].split()]
            self.chart["curves"][self.curve].append(points)
        elif tag == "circle":
            point = (float(attributes["cx"]), float(attributes["cy"]))
            self.chart["curves"][self.curve].append([point])
        elif tag == "line" and attributes["class"] != "rule":
            self.chart["marks"].append((attributes["class"], float(attributes["x1"])))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-2:] == ["g", "title"]:
            self.curve = data
            self.chart["curves"][data] = []

    def sources(self):
        """Of all pictures."""
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]

    def values(self, title):
        """{curve: [pieces of (x, y) numbers]} of a chart."""
        chart = self.charts[title]
        return {name: [[numbers(chart, *point) for point in piece] for piece in pieces]
                for name, pieces in chart["curves"].items()}


def numbers(chart, px, py):
    """Of a place on a chart, by the limits it states."""
    (x0, x1), (y0, y1) = (map(float, chart[f"data-{axis}"].split()) for axis in "xy")
    right = (px - LEFT) / (WIDTH - LEFT - RIGHT)
    up = (HEIGHT - BOTTOM - py) / (HEIGHT - TOP - BOTTOM)
    if chart["data-scale"] == "log":
        return x0 + right * (x1 - x0), np.exp(np.log(y0) + up * (np.log(y1) - np.log(y0)))
    return x0 + right * (x1 - x0), y0 + up * (y1 - y0)
