"""Draw grids, colour-coded maps, overlays and legends; write PNG files, complete or absent.

Images are [N, H, W, 3 + C]: `rgb` in [-1, 1] and signed maps (value > 0 = class present) as
networks make them, or uint8 if the function says so. Nothing here imports TensorFlow.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dnnlib.data import channels
from dnnlib.util import UserError, atomic_path

_PNG = {"format": "PNG", "compress_level": 1}  # three times as fast, with files 5 % larger
LEGEND_ROW = 18  # height of one legend line in pixels; its text is two thirds of that
SMALLEST = 96  # height of a sample in a sheet; smaller ones are enlarged
GAP, GREY = 6, 128  # pixels around each sample, and their grey value


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Return [-1, 1] as [0, 255] for picture files: rint(127.5 x + 127.5), clipped.

    NaN becomes 0: a diverged network's grid is black and does not stop a training.
    """
    values = np.clip(np.nan_to_num(np.asarray(images, np.float32), nan=-1.0), -1, 1)
    return np.rint(values * np.float32(127.5) + np.float32(127.5)).astype(np.uint8)


def to_uint8_metrics(images: np.ndarray) -> np.ndarray:
    """Return [-1, 1] as [0, 255] for the metrics: 127.5 x + 128, saturated, then truncated.

    Differs from `to_uint8` at exact midpoints only. Raises UserError for values that are not
    finite: metrics computed from them would be meaningless.
    """
    values = np.asarray(images, np.float32)
    if not np.isfinite(values).all():
        raise UserError("the network makes values that are not finite, it has diverged: "
                        "use an older snapshot")
    return np.clip(values * np.float32(127.5) + np.float32(128), 0, 255).astype(np.uint8)


def image_grid(images: np.ndarray, columns: int, empty: int = 0) -> np.ndarray:
    """Arrange images [N, H, W, 3] uint8 in rows of `columns`: uint8 [rows*H, columns*W, 3].

    Cells without an image have the grey value `empty`. Raises ValueError for no images or columns.
    """
    images = np.asarray(images)
    count, height, width, depth = images.shape
    if count < 1 or columns < 1:
        raise ValueError(f"a grid of {count} images in {columns} columns")
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, depth), empty, np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, depth)
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, depth)


def grey_sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange images uint8 [N, H, W, 3] as `image_grid` does, with GAP grey pixels around each, so
    that white or black borders are visible; small images are enlarged by a whole factor."""
    tiles = np.pad(enlarge_small(images), ((0, 0), (0, GAP), (0, GAP), (0, 0)),
                   constant_values=GREY)
    grid = image_grid(tiles, columns, empty=GREY)
    return np.pad(grid, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=GREY)


def enlarge_small(images: np.ndarray) -> np.ndarray:
    """Return images [N, H, W, 3] enlarged by a whole factor to a height of at least SMALLEST."""
    return enlarge(images, -(-SMALLEST // images.shape[1]))


def map_pictures(segmaps: np.ndarray) -> np.ndarray:
    """Return signed maps [N, H, W, C] as pictures uint8 [N, H, W, 3]: a single map is white where
    the class is present, several have the palette's colours."""
    num_classes = segmaps.shape[-1]
    labels = channels.to_label_map(segmaps)
    if num_classes == 1:
        return np.repeat((labels * np.uint8(255))[..., None], 3, axis=-1)
    return channels.colourise(labels, num_classes)


def draw_pairs(images: np.ndarray) -> np.ndarray:
    """Return the colours of images float [N, H, W, 3 + C] beside their colour-coded maps: uint8
    [N, H, 2 W, 3], or [N, H, W, 3] if there are none."""
    images = np.asarray(images)
    rgb, segmaps = to_uint8(images[..., channels.RGB]), images[..., channels.SEGMAPS]
    if segmaps.shape[-1] == 0:
        return rgb
    return np.concatenate([rgb, map_pictures(segmaps)], axis=2)


def overlay(rgb: np.ndarray, label_map: np.ndarray, num_classes: int,
            alpha: float = 0.5) -> np.ndarray:
    """Tint the labelled pixels of rgb uint8 [..., 3] with their class's colour by `alpha`."""
    label_map = np.asarray(label_map)
    tint = channels.colourise(label_map, num_classes).astype(np.float32)
    weight = np.float32(alpha) * (label_map > 0)[..., None]
    return np.rint(rgb * (1 - weight) + tint * weight).astype(np.uint8)


def legend(classes: Sequence[str], width: int) -> np.ndarray:
    """Return a strip uint8 [height, width, 3] with every class beside its colour."""
    font, classes = _font_for(classes)
    colours = channels.palette(len(classes))[1:]
    entry = LEGEND_ROW * 2 + max((int(font.getlength(name)) for name in classes), default=0)
    per_row = max(width // entry, 1)
    rows = -(-len(classes) // per_row)
    strip = Image.new("RGB", (width, rows * LEGEND_ROW), (255, 255, 255))
    draw = ImageDraw.Draw(strip)
    for index, (name, colour) in enumerate(zip(classes, colours)):
        x, y = index % per_row * entry, index // per_row * LEGEND_ROW
        box = (x + 3, y + 3, x + LEGEND_ROW - 4, y + LEGEND_ROW - 4)
        draw.rectangle(box, fill=tuple(map(int, colour)))
        draw.text((x + LEGEND_ROW, y + 2), name, fill=(0, 0, 0), font=font)
    return np.asarray(strip)


def _font_for(texts):
    """Return a font and the texts to draw with it. Pillow's font has ASCII alone, so other texts
    get matplotlib's, and characters that this one lacks too become backslash escapes."""
    size = LEGEND_ROW * 2 // 3
    if all(text.isascii() for text in texts):
        return ImageFont.load_default(size), texts
    import matplotlib

    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"),
                              size)
    lacking = bytes(font.getmask("\uffff"))
    return font, ["".join(ascii(c)[1:-1] if bytes(font.getmask(c)) == lacking else c
                          for c in unicodedata.normalize("NFC", text)) for text in texts]


def caption(text: str, width: int) -> np.ndarray:
    """Return a white strip uint8 [LEGEND_ROW, width, 3] with one line of text from its left.

    Of a text that is too long, the end is shown, after three dots: file names differ at the end.
    Characters that Pillow's font lacks become backslash escapes.
    """
    strip = Image.new("RGB", (width, LEGEND_ROW), (255, 255, 255))
    font = ImageFont.load_default(LEGEND_ROW * 2 // 3)
    text = "".join(c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in text)
    dots = "..." if font.getlength(text) > width - 6 else ""
    while dots and text and font.getlength(dots + text) > width - 6:
        text = text[1:]
    ImageDraw.Draw(strip).text((3, LEGEND_ROW // 2), dots + text, (0, 0, 0), font, anchor="lm")
    return np.asarray(strip)


def with_legend(picture: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return a picture uint8 [H, W, 3] with a legend below, if there are two or more classes."""
    if len(classes) < 2:
        return picture
    return np.concatenate([picture, legend(classes, picture.shape[1])])


def enlarge(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Return every pixel of [..., H, W, 3] as a square of factor x factor."""
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def upscale_nearest(images: np.ndarray, resolution: int) -> np.ndarray:
    """Repeat the pixels of images [N, r, r, ...] up to `resolution`, a multiple of r."""
    factor = resolution // images.shape[1]
    if factor * images.shape[1] != resolution:
        raise ValueError(f"{images.shape[1]} pixels cannot be repeated to {resolution}")
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def shrink_to_width(picture: np.ndarray, width: int) -> np.ndarray:
    """Return uint8 [H, W, 3] averaged over squares, at most about `width` pixels wide."""
    factor = -(-picture.shape[1] // width)
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).reduce(factor))


def read_png(path: str | Path) -> np.ndarray:
    """Return the pixels of a PNG that this program wrote, uint8: colours [H, W, 3], or palette
    indices [H, W]."""
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image)


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] or [H, W] as a PNG, completely or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(picture)).save(temporary, **_PNG)


def save_label_png(path: str | Path, label_map: np.ndarray, num_classes: int,
                   may_ignore: bool = False) -> None:
    """Write a label map [H, W] as a PNG of palette indices, which viewers show as colours.

    Raises ValueError for a label above C; with `may_ignore`, channels.IGNORE is allowed.
    """
    label_map = np.ascontiguousarray(label_map, np.uint8)
    known = label_map[label_map != channels.IGNORE] if may_ignore else label_map
    if known.max(initial=0) > num_classes:
        raise ValueError(f"label {known.max()} in a map of {num_classes} classes")
    image = Image.frombytes("P", label_map.shape[::-1], label_map.tobytes())
    colours = channels.IGNORE if known.size < label_map.size else num_classes
    image.putpalette(channels.palette(colours).tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, bits=8, **_PNG)
