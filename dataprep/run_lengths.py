"""COCO's run lengths (RLE), checked before pycocotools gets them.

That package reads foreign memory where runs do not fill the mask, and writes behind its own where
they overfill it.
"""

import numpy as np
from pycocotools import mask as coco_mask

from dataprep.categories import whole

_MAX_PIXELS = 2**26  # of a mask; as of a photo
_MAX_RUN = 2**32  # pixels
_LONGEST = 7  # characters of a number: 35 bits


def read_run_lengths(segmentation: dict) -> dict | str:
    """Return {"size": [height, width], "counts": int64 [n]} of what JSON has, or the reason
    against it."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return "run lengths without a size [height, width]"
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    elif isinstance(counts, list):
        numbers = [whole(count, 0, _MAX_RUN) for count in counts]
        counts = None if None in numbers else np.array(numbers, np.int64)
    if not isinstance(counts, np.ndarray) or not len(counts) or counts.min() < 0:
        return "run lengths that are not whole numbers of 0 or more"
    return {"size": size, "counts": counts}


def _decode_counts(text):
    """COCO's string of run lengths -> int64 [n], unchecked numbers; None where it is none.

    Each character has five bits of a number, the lowest first, and whether more follow; from the
    fourth number on they are differences to the one before the last.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)  # two's complement
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def encode_run_lengths(lengths: dict, width: int, height: int) -> tuple[dict | None, str | None]:
    """Return (pycocotools' form of run lengths for an image of this size, None), or (None, what is
    wrong with them)."""
    size, counts = lengths["size"], lengths["counts"]
    if [whole(side, 1, _MAX_PIXELS) for side in size] != [height, width]:
        return None, "run lengths for another size than the image's"
    if width * height > _MAX_PIXELS:
        return None, "run lengths of an image that is too large"
    if len(counts) > width * height + 1 or counts.sum() != width * height:
        return None, "run lengths that do not add up to the image"
    if not counts[1::2].any():
        return None, "run lengths without area"
    plain = {"size": [height, width], "counts": counts.tolist()}
    return coco_mask.frPyObjects(plain, height, width), None
