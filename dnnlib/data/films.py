"""Write films: mp4 with PyAV, which need not be installed, WebP and GIF with Pillow.

Frames are written as they come, so that memory does not grow with a film's length, except for WebP,
whose compressed frames Pillow keeps to the end. A file is complete or absent.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from dnnlib.util import UserError, atomic_path

FORMATS = ("mp4", "webp", "gif")
MAX_SIDE = 16383  # pixels; the limit of WebP, while x264 allows one more
# Browsers show frames of 10 ms or less for 100 ms; GIF counts in 10 ms, WebP in 1 ms.
MAX_FPS = {"mp4": 120, "webp": 90, "gif": 50}
CRF = 18  # x264's quality: the losses are hardly visible
WEBP_QUALITY, WEBP_EFFORT = 90, 3  # of 0 to 6, where more takes longer


def check_format(name: str) -> None:
    """Raise UserError if a format needs a package that is not installed."""
    if name == "mp4":
        _pyav()


def check_size(width: int, height: int) -> None:
    """Raise UserError if frames are too large for a film."""
    if max(width, height) > MAX_SIDE:
        raise UserError(f"a film of {width}x{height} pixels: {MAX_SIDE} are the most, each way")


def save_film(path: str | Path, frames: Iterable[np.ndarray], count: int, fps: float) -> None:
    """Write a film, which viewers repeat endlessly.

    Args:
        path: its suffix is one of FORMATS.
        frames: uint8 [H, W, 3], all of one size; for mp4 of even sides.
        count: how many frames there are.
        fps: frames per second; for mp4 a whole number.

    Raises:
        UserError: PyAV is needed, but not installed.
    """
    path = Path(path)
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif}[path.suffix]
    with atomic_path(path) as temporary:
        write(temporary, frames, count, fps)


def _durations(count, fps, unit):
    """Return how long each frame is shown, in whole units of 1 / unit seconds; rounding errors do
    not add up."""
    ends = np.rint(np.arange(count + 1) * unit / fps).astype(int)
    return np.diff(ends).tolist()


# mp4

def _pyav():
    """Return the module av."""
    try:
        import av
    except ImportError:
        raise UserError("--video=mp4 needs the package av: pip install -r requirements-video.txt; "
                        "--video=webp and --video=gif do without") from None
    return av


def _write_mp4(path, frames, count, fps):
    """Write H.264 with the colours that all players expect: 4:2:0 and BT.709, stated in the file.
    """
    av = _pyav()
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF)})
        stream.pix_fmt = "yuv420p"
        context, bt709 = stream.codec_context, 1
        context.colorspace = context.color_primaries = context.color_trc = bt709
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p",
                                                         dst_colorspace="ITU709")))
        container.mux(stream.encode(None))


# Pillow's

class _Frames(Image.Image):
    """Frames as an image that Pillow writes as an animation: it seeks them one after the other, and
    only the current one exists."""

    def __init__(self, frames: Iterator[np.ndarray], count: int):
        super().__init__()
        self._frames, self._number, self.n_frames = frames, -1, count
        self.seek(0)

    def tell(self) -> int:
        return self._number

    def seek(self, frame: int) -> None:
        if frame == self._number + 1:
            picture = Image.fromarray(np.ascontiguousarray(next(self._frames)))
            self._number, self._size, self._mode, self.im = (frame, picture.size, picture.mode,
                                                             picture.im)


def _write_webp(path, frames, count, fps):
    """Write lossy WebP, since lossless photos take four times as much space."""
    rest = iter(frames)
    with open(path, "wb") as file:
        _Frames(rest, count).save(
            file, format="WEBP", save_all=True, duration=_durations(count, fps, 1000), loop=0,
            quality=WEBP_QUALITY, method=WEBP_EFFORT)
    if next(rest, None) is not None:  # read in any case, so that a progress bar reaches its end
        raise ValueError(f"more than {count} frames")


def _write_gif(path, frames, count, fps):
    """Write GIF, each frame with the 256 colours that suit it best."""
    with open(path, "wb") as file:
        for frame, duration in zip(frames, _durations(count, fps, 100), strict=True):
            picture = Image.fromarray(np.ascontiguousarray(frame)).quantize(256)
            if not file.tell():
                file.writelines(GifImagePlugin.getheader(picture, info={"loop": 0})[0])
            file.writelines(GifImagePlugin.getdata(picture, duration=10 * duration,
                                                   include_color_table=True))
        file.write(b";")
