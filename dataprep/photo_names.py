"""Which file is the photo of an id."""

import re
from pathlib import PurePosixPath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_BYTES = 2**28  # the largest picture that is decoded, uncompressed, and a little


def leads_out(name):
    """Whether a relative name, with slashes of either kind, is none: absolute, or with `..`."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or not parts[0] or bool(re.match("[A-Za-z]:", name))


class NameIndex:
    """Files by photo id.

    A name that is a number is an id, whatever zeros stand before it, whatever its folder: such a
    file belongs to this id alone. Only where the files have other names does the annotations' own
    `file_name` count, by its last part. Of several files of one id `%07d.jpg` comes first, then the
    one that lies less deep, then the order of names.
    """

    def __init__(self, names):
        self._by_id, self._by_name = {}, {}
        for name in sorted(names, key=_preference):
            path = PurePosixPath(name)
            if path.name.startswith(".") or path.suffix.lower() not in (*IMAGE_SUFFIXES, ""):
                continue
            image_id = _as_id(path.stem)
            if image_id is None:
                self._by_name.setdefault(path.name, name)
            else:
                self._by_id.setdefault(image_id, name)

    def find(self, image_id, file_name):
        """Name of the photo of this id, or None."""
        if image_id in self._by_id:
            return self._by_id[image_id]
        return self._by_name.get(PurePosixPath(file_name.replace("\\", "/")).name)


def _as_id(stem):
    """The number that a name is, or None."""
    return int(stem) if re.fullmatch("[0-9]{1,16}", stem) else None


def _preference(name):
    path = PurePosixPath(name)
    image_id = _as_id(path.stem)
    canonical = image_id is not None and path.name == f"{image_id:07d}.jpg"
    return leads_out(name), not canonical, len(path.parts), name
