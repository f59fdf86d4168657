"""Bar charts as pictures, drawn with Pillow."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TEXT = 16  # height of letters in pixels
GAP = 12
SERIES_COLOURS = ((52, 101, 164), (229, 124, 35), (78, 154, 6), (117, 80, 123))
INK, RULE, PAPER = (0, 0, 0), (205, 205, 205), (255, 255, 255)


def bar_chart(title, names, series, num_rules=5):
    """Groups of bars side by side, one group a name and one bar a series -> uint8 [H, W, 3].

    Args:
        title: a line above.
        names: what stands below each group, at a slant.
        series: {legend: values [len(names)]}, none negative, shown in per cent.
        num_rules: of the horizontal rules, about.
    """
    font = ImageFont.load_default(TEXT)
    bar = max(TEXT, 40 // len(series))
    group = bar * len(series) + 2 * GAP
    slant = _slanted_height(names, font)
    left, top, height = max(5 * TEXT, slant - group // 2 + GAP), 5 * TEXT, 24 * TEXT
    width = max(left + group * len(names) + left // 2, int(font.getlength(title)) + 2 * GAP)
    picture = Image.new("RGB", (width, top + height + slant + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), title, INK, font)
    _draw_legend(draw, list(series), (left, GAP + 2 * TEXT), font)
    step = round_step(max(1e-6, *(max(values) for values in series.values())) / num_rules)
    top_value = step * max(np.ceil(max(max(v) for v in series.values()) / step - 1e-9), 1)
    bottom = top + height
    for i in range(round(top_value / step) + 1):
        y = bottom - round(height * i * step / top_value)
        draw.line((left, y, width - GAP, y), RULE if i else INK)
        draw.text((left - GAP // 2, y), f"{100 * i * step:g} %", INK, font, anchor="rm")
    for i, name in enumerate(names):
        x = left + i * group + GAP
        for k, values in enumerate(series.values()):
            y = bottom - round(height * values[i] / top_value)
            if y < bottom:
                draw.rectangle((x + k * bar, y, x + (k + 1) * bar - 2, bottom - 1),
                               SERIES_COLOURS[k % len(SERIES_COLOURS)])
        _draw_slanted(picture, name, (x + bar * len(series) // 2, bottom + GAP // 2), font)
    return np.asarray(picture)


def round_step(rough):
    """The smallest of 1, 2 and 5 times a power of ten that is not below `rough` > 0."""
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(power * f for f in (1, 2, 5, 10) if power * f >= rough * (1 - 1e-9)))


def _draw_legend(draw, labels, corner, font):
    """Squares in the series' colours with their names, in one line."""
    x, y = corner
    for k, label in enumerate(labels):
        draw.rectangle((x, y + 2, x + TEXT, y + 2 + TEXT), SERIES_COLOURS[k % len(SERIES_COLOURS)])
        draw.text((x + TEXT + GAP // 2, y), label, INK, font)
        x += 2 * TEXT + 2 * GAP + int(font.getlength(label))


def _slanted_height(names, font):
    """Height that names take at 45 degrees."""
    longest = max((font.getlength(name) for name in names), default=0)
    return int((longest + 2 * TEXT) / np.sqrt(2)) + 1


def _draw_slanted(picture, text, end, font):
    """Draw text at 45 degrees, rising to its end at the point `end`."""
    size = int(font.getlength(text)) + TEXT
    strip = Image.new("L", (size, size), 0)
    ImageDraw.Draw(strip).text((size - 1, size // 2), text, 255, font, anchor="rm")
    mask = strip.rotate(45, resample=Image.Resampling.BICUBIC, expand=True)
    # Where the middle of the strip's right edge came to lie.
    centre, reach = np.array(mask.size) / 2, (size / 2 - 1) / np.sqrt(2)
    x, y = np.array(end) - centre - (reach, -reach)
    picture.paste(INK, (round(x), round(y)), mask)
