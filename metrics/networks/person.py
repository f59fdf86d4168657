"""Measure garments outside the person, with a small network that segments people, not clothes.

MediaPipe's selfie segmentation ("general", 256x256) comes in an npm package, under the Apache
licence; ai-edge-litert runs it (requirements-person.txt). Its file is fetched once through npm,
checked by sha256, and cached.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.download import cache_dir, check_file, file_digest, has_room
from dnnlib.util import UserError
from metrics.map_quality import MapMeasure, PairBatch

FILE_NAME = "selfie_segmentation.tflite"
MODEL = {"size": 249_024,
         "sha256": "8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27"}
PACKAGE = "@mediapipe/selfie_segmentation@0.1.1675465747"
MEMBER = f"package/{FILE_NAME}"
BY_HAND = (f"fetch the package by npm pack {PACKAGE}, and keep the {MEMBER} in it as "
           f"$STYLE_C_GAN_CACHE/{FILE_NAME} or give it as --person=PATH")
SIZE = 256
PRESENT = 0.5  # larger values are pixels of the person


class PersonNetwork:
    """The network that finds the person in a photo.

    Attributes: path, digest (sha256 of the file).
    """

    def __init__(self, path: str | Path | None = None, report: Callable[[str], None] = print):
        """Load the network from `path`, by default from the cache, into which it is fetched.

        Raises:
            UserError: the file is missing or another one, or ai-edge-litert is not installed.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UserError("--person needs the package ai-edge-litert: pip install -r "
                            "requirements-person.txt") from None
        self.path = find_model(path, report)
        self.digest = file_digest(self.path)
        self._interpreter = Interpreter(str(self.path))
        self._interpreter.allocate_tensors()
        self._input, self._output = (details[0]["index"] for details in (
            self._interpreter.get_input_details(), self._interpreter.get_output_details()))

    def present(self, rgb: np.ndarray) -> np.ndarray:
        """Return where the person is: bool [n, H, W], for photos uint8 [n, H, W, 3]. Both resizes
        are bilinear, with Pillow's antialiasing."""
        found = []
        for photo in rgb:
            small = Image.fromarray(photo).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            self._interpreter.set_tensor(self._input, np.asarray(small, np.float32)[None] / 255)
            self._interpreter.invoke()
            shares = Image.fromarray(self._interpreter.get_tensor(self._output)[0, ..., 0])
            found.append(np.asarray(shares.resize(photo.shape[1::-1], Image.Resampling.BILINEAR)))
        return np.stack(found) > PRESENT


def person_measure(network: PersonNetwork) -> MapMeasure:
    """Return the measure of a person network: for each pair, the number of pixels with a class that
    are outside the person, and the number of all pixels with a class."""
    def count(pairs: PairBatch, num_classes: int) -> np.ndarray:
        garments = pairs.label_maps > 0
        outside = garments & ~network.present(pairs.rgb)
        return np.stack([outside.sum(axis=(1, 2)), garments.sum(axis=(1, 2))], axis=1)
    return MapMeasure(count, lambda num_classes: 2, digest=network.digest, about={
        "person": {"path": str(network.path), "digest": network.digest, "threshold": PRESENT}})


def find_model(path: str | Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Return the network's file: `path`, else the cached one, else npm fetches it into the cache.
    Raises UserError, which says how to get it by hand, if it is missing or another file."""
    if path is None:
        path = cache_dir() / FILE_NAME
        if not path.is_file():
            _fetch(path, report)
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {BY_HAND}")
    check_file(path, str(path), **MODEL)
    return Path(path)


def _fetch(path, report):
    """Fetch the package from the index that npm uses, and write the network's file to `path`."""
    if shutil.which("npm") is None:
        raise UserError(f"no network for --person: npm is not installed. By hand: {BY_HAND}")
    if not has_room(path.parent, MODEL["size"], report):
        raise UserError(f"no network for --person: no room in {path.parent}")
    report(f"fetching {PACKAGE} through npm")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--json", "--pack-destination", folder, PACKAGE]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        packages = list(Path(folder).glob("*.tgz"))
        if result.returncode or len(packages) != 1:
            try:  # the reason that npm prints with --json
                reason = json.loads(result.stdout)["error"]["summary"]
            except (ValueError, KeyError, TypeError):
                reason = (result.stderr or result.stdout)[-200:]
            raise UserError(f"npm pack {PACKAGE} failed: {util.one_line(reason)}. By hand: "
                            f"{BY_HAND}")
        with tarfile.open(packages[0]) as archive:
            content = archive.extractfile(MEMBER).read()
    with util.atomic_path(path) as temporary:
        Path(temporary).write_bytes(content)
        check_file(temporary, PACKAGE, **MODEL)  # else the cache would keep another file
