"""Pages of reports: well-formed, self-contained, and nothing from the data becomes markup."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from dnnlib.charts import Chart, bar_chart
from dnnlib.data import pictures
from dnnlib.page import Encoded, Page
from tests.tools.page_reader import PageReader

EVIL = '<script>alert(1)</script>"\'&amp;\x1b[2J\u202e\ud800'


def full_page(text="plain"):
    page = Page(text)
    page.heading(text)
    page.text(text)
    page.table([text, "n"], [[text, 3], ["b", 0.25]], [[0, 1], [0, 0]])
    page.chart(bar_chart([text, "b"], {text: [1, 2], "other": [0, 4]}))
    chart = Chart(text, text, {text: ([0, 1], [1, 2])}, [(0.5, text, "mark")])
    page.charts([(chart.title, chart.legend(), chart.svg())])
    page.legend({text: "rgb(1, 2, 3)", "b": "rgb(4, 5, 6)"})
    page.state(text, text)
    page.running(text, text, 1e9, 60)
    encoded = Encoded.of(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    page.picture(encoded, text)
    with page.folded(text):
        page.slider(text, [(encoded, text), (encoded, "b")])
    return page.render()


def test_texts_from_the_data_do_not_become_markup():
    plain, evil = PageReader(full_page()), PageReader(full_page(EVIL))
    assert plain.names() == evil.names() and evil.names().count("script") == 1
    assert evil.text.count("<script>alert(1)</script>\"'&amp;\\u001b[2J\\u202e\\ud800") >= 12
    assert [sorted(attributes) for _, attributes in plain.tags] == [
        sorted(attributes) for _, attributes in evil.tags]
    assert full_page(EVIL).encode()


def test_a_page_is_self_contained():
    page = full_page()
    reader = PageReader(page)
    for _, attributes in reader.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"@import|url\((?!#)", page) and page.startswith("<!DOCTYPE html>")


def test_pictures_are_in_the_page():
    """Lossless if that is small; large noise becomes a JPEG. None is scaled smoothly."""
    rng, page = np.random.default_rng(1), Page("t")
    small, large = (rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                    for size in ((5, 7), (400, 500)))
    for pixels in (small, large, pictures.enlarge(small, 50)):
        page.picture(Encoded.of(pixels), "x")
    images = [attributes for tag, attributes in PageReader(page.render()).tags if tag == "img"]
    kinds = [image["src"].partition(";")[0] for image in images]
    assert kinds == ["data:image/webp", "data:image/jpeg", "data:image/webp"]
    assert [(image["width"], image["height"]) for image in images] == [
        ("7", "5"), ("500", "400"), ("350", "250")]
    for image, pixels in ((images[0], small), (images[2], pictures.enlarge(small, 50))):
        data = base64.b64decode(image["src"].partition(",")[2])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    style = page.render().partition("</style>")[0]
    assert "img { display: block; image-rendering: pixelated; }" in style


def test_only_pages_of_running_work_reload():
    """With scripts, which can also show a page's age; without, by the noscript element."""
    still, running = Page("t"), Page("t")
    still.state("stopped", "for now")
    running.running("now", "later", 1234567890.4, 90.2)
    still, running = still.render(), running.render()
    assert not {"script", "noscript"} & set(PageReader(still).names())
    reader = PageReader(running)
    (box,) = [attributes for tag, attributes in reader.tags if tag == "p"]
    assert box == {"class": "state running", "data-written": "1234567890", "data-late": "90"}
    assert [a for tag, a in reader.tags if tag == "meta"][-1] == {"http-equiv": "refresh",
                                                                 "content": "60"}
    assert running.index("<noscript>") < running.index("http-equiv") < running.index("</noscript>")
    assert "location.reload(); }, 60000" in running


def test_rows_are_as_long_as_the_head():
    with pytest.raises(ValueError, match="shorter"):
        Page("t").table(["a", "b"], [[1]])
