"""dnnlib.data.films: frames that arrive one by one become a whole file in every format."""

import sys
import weakref

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dnnlib.data import films
from dnnlib.util import UserError

COLOURS = [(250, 20, 30), (30, 200, 40), (20, 40, 240), (128, 128, 128)]
PILLOWS = ["webp", "gif"]


def make_frames(count):
    """Return frames of four flat fields and a stripe that moves to the right."""
    for number in range(count):
        frame = np.repeat(np.repeat(np.reshape(np.uint8(COLOURS), (2, 2, 3)), 32, 0), 48, 1)
        frame[:, 4 * number:4 * number + 4] = 255
        yield frame


@pytest.fixture
def kept():
    """Return a check that a reader gets nearly what was written, frame by frame."""
    def check(frames, count):
        assert len(frames) == count
        for found, expected in zip(frames, make_frames(count)):
            assert np.abs(np.asarray(found).astype(int)[10:20, 80:90] - COLOURS[1]).max() <= 4
            assert np.abs(np.asarray(found).astype(int) - expected).mean() < 4
    return check


@pytest.mark.parametrize("name", PILLOWS)
def test_pillow_reads_every_frame_and_its_time(tmp_path, kept, name):
    path = tmp_path / "deep" / f"x.{name}"
    films.save_film(path, make_frames(11), 11, 30)
    with Image.open(path) as film:
        assert film.info["loop"] == 0 and film.size == (96, 64)
        times = []
        for frame in ImageSequence.Iterator(film):
            frame.load()
            times.append(frame.info["duration"])
        # 11 / 30 s in whole units: errors do not add up.
        assert sum(times) == {"webp": 367, "gif": 370}[name] and max(times) - min(times) <= 10
        kept([frame.convert("RGB") for frame in ImageSequence.Iterator(film)], 11)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_mp4_plays_everywhere(tmp_path, kept):
    av = pytest.importorskip("av", reason="PyAV is not installed (requirements-video.txt)")
    films.save_film(tmp_path / "x.mp4", make_frames(11), 11, 25)
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (stream.frames, stream.average_rate, context.pix_fmt) == (11, 25, "yuv420p")
        assert (context.name, context.colorspace, context.color_trc) == ("h264", 1, 1)
        kept([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], 11)
    # The index is at the front, so that a browser can start before it has everything.
    content = (tmp_path / "x.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("name", films.FORMATS)
def test_frames_are_released(tmp_path, name):
    if name == "mp4":
        pytest.importorskip("av", reason="PyAV is not installed (requirements-video.txt)")
    alive, most = weakref.WeakSet(), []

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    def watched():
        for frame in make_frames(12):
            frame = frame.view(Frame)
            alive.add(frame)
            yield frame
            most.append(len(alive))
    films.save_film(tmp_path / f"x.{name}", watched(), 12, 10)
    assert len(most) == 12 and max(most) <= 3


@pytest.mark.parametrize("name", films.FORMATS)
def test_an_interrupted_film_keeps_the_old_file(tmp_path, name):
    if name == "mp4":
        pytest.importorskip("av", reason="PyAV is not installed (requirements-video.txt)")
    path = tmp_path / f"x.{name}"
    path.write_text("the older film")

    def interrupted():
        yield from make_frames(90)  # more than x264 buffers before it writes
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        films.save_film(path, interrupted(), 100, 10)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "the older film"


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for name in PILLOWS:
        films.check_format(name)
    with pytest.raises(UserError, match=r"pip install -r requirements-video\.txt; --video=webp"):
        films.check_format("mp4")


def test_frames_that_are_too_large_are_refused():
    films.check_size(films.MAX_SIDE, 2)
    with pytest.raises(UserError, match="16384x2 pixels: 16383 are the most"):
        films.check_size(16384, 2)
