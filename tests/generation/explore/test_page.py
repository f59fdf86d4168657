"""The page of generate.py --explore in a headless Chromium: every control has its effect."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import requests
from PIL import Image

from dnnlib.data import channels
from generation.explore.networks import Networks
from tests.generation.explore.explored import results_folder
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import CLASSES

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
WAIT_MS = int(os.environ.get("EXPLORE_WAIT_MS", 120_000))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium on the PATH")]
pytest.importorskip("gradio", reason="gradio is not installed (requirements-explore.txt)")
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (requirements-explore.txt)")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make a folder with results, where the server writes its output."""
    root = tmp_path_factory.mktemp("explore")
    results_folder(root)
    return root


@contextlib.contextmanager
def served(place, errors, **environment):
    """Start the real server in a separate process; yield its address and the process."""
    command = [sys.executable, ROOT / "generate.py", "--explore", "--results=results", "--out=out"]
    with (open(errors, "w") as file,
          subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=file, text=True,
                           env=os.environ | environment) as server):
        line = server.stdout.readline()
        assert line.startswith("explore: http://127.0.0.1:"), errors.read_text()
        try:
            yield line.split()[1], server
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def address(place):
    """Return the address of the server that the browsers use."""
    with served(place, place / "errors.txt") as (address, server):
        yield address
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    assert "Traceback" not in (place / "errors.txt").read_text()


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--enable-unsafe-swiftshader"])
        yield browser
        browser.close()


class Browser:
    """A separate browser on the page, with a user's actions."""

    def __init__(self, chromium, address):
        self.context = chromium.new_context(viewport={"width": 1400, "height": 1000})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.requests = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.source("photo")

    def source(self, name):
        """Wait for a picture; return its address, which depends on its content."""
        return self.page.locator(f"#picture-{name} img").get_attribute("src")

    def picture(self, name="photo"):
        """Return the pixels of a picture as the browser gets it."""
        body = self.context.request.get(self.source(name)).body()
        with Image.open(io.BytesIO(body)) as image:
            return np.asarray(image.convert("RGB"))

    @contextlib.contextmanager
    def changed(self, name="photo"):
        """On exit, wait until a picture has changed."""
        before = self.source(name)
        yield
        self.page.wait_for_function(
            "([name, before]) => { const image = document.querySelector(`#picture-${name} img`); "
            "return image && image.src && image.getAttribute('src') !== before; }",
            arg=[name, before])

    def choose(self, name, dropdown="network"):
        """Choose the entry of a list that starts with this text."""
        self.page.locator(f"#{dropdown} input").click()
        self.page.locator(f"#{dropdown} [role=option], [role=option]").filter(
            has_text=name).first.click()

    def slide(self, name, value):
        """Set a slider by the number beside it."""
        box = self.page.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Enter")

    def tick(self, group, text):
        """Click on a checkbox or a choice."""
        self.page.locator(f"#{group} label").filter(has_text=text).first.click()

    def drop(self, name, path):
        """Upload a file."""
        self.page.locator(f"#{name} input[type=file]").set_input_files(path)

    def stroke(self, name):
        """Draw a line with the mouse, from the middle to the right."""
        box = self.page.locator(f"#{name}").last.bounding_box()
        for step in range(5):
            self.page.mouse.move(box["x"] + box["width"] * (0.5 + 0.05 * step),
                                 box["y"] + box["height"] * 0.4)
            if step == 0:
                self.page.mouse.down()
        self.page.mouse.up()

    def take_away(self, name):
        """Remove an uploaded file."""
        self.page.locator(f"#{name} button[aria-label]").last.click()

    def error(self):
        """Wait for an error; return its text and close it."""
        body = self.page.locator(".toast-body").first
        text = body.inner_text()
        body.locator("button").first.click()
        body.wait_for(state="hidden")
        return text


@pytest.fixture
def browser(chromium, address):
    opened = Browser(chromium, address)
    yield opened
    assert {urlparse(url).netloc for url in opened.requests if url.startswith("http")} == {
        urlparse(address).netloc}, "the page asks other hosts for something"
    opened.context.close()


# Generators: the newest run's best snapshot is selected at first

def test_seed_truncation_noise_and_views(browser):
    first = browser.source("photo")
    for control, value in (("seed", 7), ("psi", 0.5)):
        with browser.changed():
            browser.slide(control, value)
    with browser.changed():
        browser.tick("noise", "noise")
    with browser.changed("map"), browser.changed("overlay"):
        browser.tick("shown", "red")
    present = {tuple(colour) for colour in browser.picture("map").reshape(-1, 3).tolist()}
    assert tuple(channels.palette(2)[1].tolist()) not in present and len(present) > 1
    browser.tick("views", "overlay")
    browser.page.locator("#picture-overlay").wait_for(state="hidden")
    browser.slide("psi", 1)
    browser.tick("noise", "noise")
    browser.slide("seed", 0)
    browser.page.locator(f"#picture-photo img[src='{first}']").wait_for()


def test_two_seeds(browser):
    one = browser.picture()
    with browser.changed():
        browser.tick("what", "between")
    browser.page.locator("#strip img").wait_for()
    for position in (0, 1):
        with browser.changed():
            browser.slide("position", position)
        difference = np.abs(browser.picture().astype(int) - one).max()
        assert difference <= 1 if position == 0 else difference > 1
    with browser.changed():
        browser.slide("other", 9)
    with browser.changed():
        browser.tick("what", "styles")
    with browser.changed():
        browser.tick("layers", "5 (16x16)")
    with browser.changed():
        browser.tick("what", "one seed")
    browser.page.locator("#strip").wait_for(state="hidden")


def test_only_pictures_with_classes_and_a_saved_pair(browser, place):
    browser.page.locator("#only button").first.click()
    browser.tick("require", "green")
    browser.slide("area", 5)
    with browser.changed():
        browser.page.locator("#next").click()
    assert "green" in browser.page.locator("#line").inner_text()
    seed = int(browser.page.locator("#seed input[type=number]").input_value())
    browser.page.locator("#save").click()
    browser.page.get_by_text("make it again with").wait_for()
    record, = map(json.loads, next(place.glob("out/*/*/samples.jsonl")).read_text().splitlines())
    assert record["seed"] == seed and f"{seed:07d}.png" in browser.page.locator(
        "#saved").inner_text()
    browser.slide("area", 30)
    browser.tick("require", "red")
    browser.page.locator("#next").click()
    error = browser.error()
    assert f"seeds after {seed} shows green and red on 30 % of the picture" in error


@pytest.mark.parametrize("network, control", [("00004-labels", "label"), ("00003-decoder", "seed")])
def test_other_generators(browser, network, control):
    with browser.changed():
        browser.choose(network)
    with browser.changed():
        browser.slide(control, 2)
    assert browser.page.locator("#picture-map").is_visible() == (network == "00003-decoder")


# Photos and maps

@pytest.fixture
def photo(tmp_path):
    """Return a photo's file."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_photo_is_labelled(browser, photo, tmp_path):
    browser.choose("00001-segmenter")
    browser.drop("photo-file", photo)
    browser.page.locator("#line p").filter(has_text="%").wait_for()
    assert browser.picture("photo").shape == browser.picture("map").shape
    browser.take_away("photo-file")
    browser.page.locator("#picture-photo").wait_for(state="hidden")
    (tmp_path / "text.png").write_text("no photo")
    browser.drop("photo-file", tmp_path / "text.png")
    assert "text.png: not a readable image" in browser.error()
    browser.take_away("photo-file")
    (tmp_path / "large.png").write_bytes(bytes(21 << 20))
    browser.drop("photo-file", tmp_path / "large.png")
    assert "size" in browser.error()


def test_a_photo_is_translated(browser, photo):
    browser.choose("00002-cyclegan")
    browser.drop("photo-file", photo)
    browser.page.locator("#picture-overlay").filter(has_text="translated back").wait_for()
    with browser.changed("map"):
        browser.tick("direction", "BtoA")
    with browser.changed("map"):
        browser.tick("own-scale", "own scale")


def test_a_map_is_painted(browser, tmp_path):
    with browser.changed():
        browser.choose("00000-pix2pix")
    with browser.changed():
        browser.choose("00005-maps", "start")
    with browser.changed():
        browser.slide("start-seed", 3)
    with browser.changed():
        browser.slide("sample", 3)
    labels = Image.fromarray(np.eye(16, dtype=np.uint8) * 2)
    labels.save(tmp_path / "labels.png")
    with browser.changed():
        browser.drop("map-file", tmp_path / "labels.png")
    browser.tick("brush", "green")
    before = browser.source("photo")
    for _ in range(12):  # the editor takes a while to respond
        browser.stroke("editor canvas")
        browser.page.wait_for_timeout(5000)
        if browser.source("photo") != before:
            return
    pytest.fail("the photo does not follow the brush")


def test_a_map_can_start_from_any_class_of_a_conditional_generator(tmp_path):
    """Without a browser; a label that is too large selects the last class."""
    from generation.explore.page import Controls  # imports gradio

    start, name = "00006-classes/network-final", "00000-pix2pix/network-final"
    save_network(results_folder(tmp_path) / f"{start}.safetensors", CLASSES, label_size=3)
    controls = Controls(Networks(tmp_path / "results"), tmp_path / "out")
    drawn = []
    for label in (0, 2, 9):
        editor, _, slider, _ = controls.start_map(name, start, 3, label, 0)
        assert slider.visible and slider.maximum == 2
        drawn.append(editor.value["background"])
    assert drawn[0] != drawn[1] == drawn[2]


# The server

def test_two_browsers_have_their_own_state(browser, chromium, address):
    other = Browser(chromium, address)
    with other.changed():
        other.choose("00003-decoder")
    before = other.picture()
    with browser.changed():
        browser.slide("seed", 11)
    np.testing.assert_array_equal(other.picture(), before)
    assert other.page.locator("#seed input[type=number]").input_value() == "0"
    other.context.close()


def test_a_removed_snapshot_is_an_error(browser, place):
    browser.choose("00005-maps/network-snapshot-000001")
    with browser.changed():
        browser.slide("seed", 5)
    snapshot = place / "results" / "00005-maps" / "network-snapshot-000001.safetensors"
    content = snapshot.read_bytes()
    snapshot.unlink()
    browser.slide("seed", 6)
    assert "no such snapshot any more; choose another one" in browser.error()
    with browser.changed():
        browser.page.locator("#refresh").click()
    with browser.changed():
        browser.slide("seed", 8)
    snapshot.write_bytes(content)


def test_other_hosts_and_sites_are_refused(browser, address):
    for headers in ({"Host": "example.org"}, {"Origin": "http://example.org"}):
        assert browser.context.request.get(address, headers=headers).status == 403
    assert browser.context.request.get(address + "/gradio_api/file=/etc/passwd").status == 403


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_uploads_are_removed_with_the_server(place, tmp_path, ending):
    with served(place, tmp_path / "errors.txt", TMPDIR=str(tmp_path)) as (address, server):
        answer = requests.post(f"{address}/gradio_api/upload",
                               files={"files": ("photo.png", b"a photo")}, timeout=60)
        upload, = [Path(path) for path in answer.json()]
        assert upload.read_bytes() == b"a photo" and tmp_path in upload.parents
        server.send_signal(ending)
        server.wait(60)
        assert not list(tmp_path.glob("explore-*"))
