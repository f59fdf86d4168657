"""Check the header of a snapshot before anything is built from it, and name its kind.

A snapshot may come from anywhere. Its digests reveal damage but not tampering: whoever writes
another header also writes its digest.
"""

import math
from typing import Any

from dnnlib.data import channels
from training.method_config import BLOCKS
from training.segmentation.config import MAX_UNET_FMAPS

MAX_RESOLUTION = 1 << 16


def check_header(header: dict[str, Any]) -> None:
    """Raise ValueError if a value is missing or of the wrong kind; the message names the first."""
    # Kinds of values, which depend on the networks.
    checks = {"networks": _are_networks, "classes": _are_names, "digest": _is_text}
    optional = {"kimg": lambda value: value is None or _is_number(value), "dataset": _is_dataset,
                "lod": _is_lod, "domains": _are_domains, "fit": _is_text, "keypoints": _are_names,
                "generator": _is_generator, "training": _is_training}
    if isinstance(header.get("networks"), dict) and "Gs" in header["networks"]:
        checks["lod"] = _is_lod
    if is_reposer(header):
        checks["keypoints"] = _are_names
    if is_cyclegan(header):
        checks["domains"] = _are_domains
    for name, fits in {**optional, **checks}.items():
        if (name in checks or name in header) and not fits(header.get(name)):
            raise ValueError(f"{name!r} in its header is missing or damaged")
    # Values that must fit each other.
    lod = header.get("lod", {}).get("resolution", 0)
    sides = [made["config"].get("resolution") for made in header["networks"].values()]
    if any(_is_count(side) and side < lod for side in sides):
        raise ValueError("'lod' in its header is larger than its networks")
    for made in header["networks"].values():
        if made["type"] == "Segmenter" and not _is_segmenter(made["config"], header["classes"]):
            raise ValueError("'networks' in its header is damaged, or of other classes")
    blocks = [made["config"].get("blocks") for made in header["networks"].values()]
    if any(_is_count(count) and count > BLOCKS["high"] for count in blocks):
        raise ValueError("'networks' in its header is damaged: too many blocks")
    if "keypoints" in checks and not _is_skeleton(header.get("skeleton"), header["keypoints"]):
        raise ValueError("'skeleton' in its header is missing or damaged")


def is_translator(header: dict[str, Any]) -> bool:
    """Return whether a snapshot's header is of a network that draws photos from maps."""
    return header.get("variant") == "pix2pix"


def is_reposer(header: dict[str, Any]) -> bool:
    """Return whether a snapshot's header is of a network that draws people in other poses."""
    return header.get("variant") == "pose"


def is_cyclegan(header: dict[str, Any]) -> bool:
    """Return whether a snapshot's header is of a CycleGAN."""
    return header.get("variant") == "cyclegan"


def _is_text(value):
    return isinstance(value, str)


def _is_count(value):
    return type(value) is int and value >= 0


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _are_names(value):
    return isinstance(value, list) and all(map(_is_text, value))


def _are_networks(value):
    return isinstance(value, dict) and bool(value) and all(
        isinstance(made, dict) and _is_text(made.get("type"))
        and isinstance(made.get("config"), dict) for made in value.values())


def _is_segmenter(config, classes):
    """Return whether a segmentation network has these classes and can be built."""
    fmaps = config.get("unet_fmaps", 1)
    return (_is_resolution(config.get("resolution")) and len(classes) <= channels.MAX_CLASSES
            and config.get("num_outputs") == len(classes) + 1
            and _is_count(fmaps) and 1 <= fmaps <= MAX_UNET_FMAPS)


def _is_resolution(value):
    return _is_count(value) and 4 <= value <= MAX_RESOLUTION and not value & (value - 1)


def _is_lod(value):
    return isinstance(value, dict) and _is_resolution(value.get("resolution")) \
        and _is_number(value.get("fade")) and 0 <= value["fade"] <= 1


def _is_generator(value):
    return isinstance(value, dict) and _is_text(value.get("path")) and _is_text(value.get("digest"))


def _is_training(value):
    return isinstance(value, dict) and _is_number(value.get("map_contrast", 0.0))


def _is_dataset(value):
    """Return whether it describes a data set; a content_box needs the data set's resolution."""
    box = value.get("content_box") if isinstance(value, dict) else ()
    return box is None or (isinstance(box, list) and len(box) == 4 and all(map(_is_count, box))
                           and _is_resolution(value.get("resolution"))
                           and box[0] < box[2] <= value["resolution"]
                           and box[1] < box[3] <= value["resolution"])


def _are_domains(value):
    return isinstance(value, dict) and all(
        isinstance(value.get(side), dict) and _are_names(value[side].get("garment"))
        for side in "AB")


def _is_skeleton(value, names):
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2
        and all(_is_count(end) and 1 <= end <= len(names) for end in pair) for pair in value)
