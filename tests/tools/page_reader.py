"""Read a page as a browser would: tags, text, pictures, and charts by their titles."""

from html.parser import HTMLParser

VOID = {"meta", "img", "input"}


class PageReader(HTMLParser):
    """Collect tags with their attributes and the text; fail if tags do not close in order.

    Attributes:
        charts: {title of a chart: text of its legend}.
    """

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open, self.charts = [], "", [], {}
        self.title = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-2:] == ["figcaption", "b"]:
            self.title = data
            self.charts[data] = ""
        elif self.open[-3:] == ["figcaption", "div", "span"]:
            self.charts[self.title] += data + "\n"

    def names(self):
        """Return the names of all tags."""
        return [tag for tag, _ in self.tags]

    def sources(self):
        """Return the sources of all pictures."""
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]
