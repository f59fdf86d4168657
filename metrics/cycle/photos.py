"""Open the photos that a CycleGAN is evaluated on: its test photos and its training photos."""

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import pictures
from dnnlib.data.class_list import find_class
from dnnlib.data.dataset import DatasetInfo
from dnnlib.data.labelled import PairFolder
from dnnlib.util import UserError
from metrics.cycle.networks import CycleNetworks
from metrics.image_sources import ImageSource, warn, warn_of_other_fit
from training.cycle.domains import SMALLEST_SHARE, Domain, open_list, split_mask, to_floats
from training.cycle.losses import critic_view

OPTIONS = {"A": "data", "B": "target"}  # the scripts' options that name the lists
OTHER = {"A": "B", "B": "A"}
TRAIN = "train"


class CyclePhotos(NamedTuple):
    """Photos of both lists, A and B."""

    A: Domain
    B: Domain

    def side(self, name: str) -> Domain:
        """Return the list 'A' or 'B'."""
        return getattr(self, name)

    def batches(self, side: str, minibatch: int, count: int | None = None, start: int = 0
                ) -> Iterator[np.ndarray]:
        """Yield `count` photos of a list, all by default, from the place `start` on, beginning
        again at its end: uint8 [n, R, R, 3 or 4]."""
        domain = self.side(side)
        places = range(start, start + (count or len(domain.numbers)))
        for first in range(0, len(places), minibatch):
            yield np.stack([domain.read(domain.numbers[place % len(domain.numbers)])
                            for place in places[first:first + minibatch]])

    def with_partners(self, side: str, minibatch: int, partners: "CyclePhotos",
                      count: int | None = None, start: int = 0
                      ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the first `count` photos of a list, all by default, with as many of the other list
        of `partners`, from the place `start` on: the photos are seen through their garments."""
        total = count or len(self.side(side).numbers)
        return zip(self.batches(side, minibatch, total),
                   partners.batches(OTHER[side], minibatch, total, start), strict=True)

    def critic_view_source(self, side: str, networks: CycleNetworks, minibatch: int,
                           partners: "CyclePhotos", count: int | None = None,
                           start: int = 0) -> ImageSource:
        """Return the first photos of a list as the critics of `networks` see them; see
        `with_partners`."""
        domain = self.side(side)
        total = min(count or len(domain.numbers), len(domain.numbers))

        def batches(maps: bool = False, indices: Sequence[int] | None = None,
                    signed: bool = False) -> Iterator[tuple[np.ndarray, None]]:
            for photos, others in self.with_partners(side, minibatch, partners, total, start):
                seen = photos[..., :3]
                if networks.has_garment:
                    rgb, mask = split_mask(to_floats(tf.constant(photos)))
                    seen = pictures.to_uint8_metrics(critic_view(
                        rgb, mask, networks.masks(tf.constant(others)), True))
                yield seen, None

        regions = ""
        if networks.has_garment:
            regions = f" through {cache_key(partners.side(OTHER[side]))} from {start} on"
        return ImageSource(
            name=f"{domain.source.name} {domain.split}", count=total,
            digest=f"{cache_key(domain)} first {total}{regions}", batches=batches,
            about=about_photos(domain),
            sizes=collections.Counter({(domain.resolution, domain.resolution): total}))


def cache_key(domain: Domain) -> tuple:
    """Return everything that determines the pixels of a list of photos, as a key for caches."""
    source = domain.source
    digest = source.content_digest if isinstance(source, PairFolder) else source.digest
    return (digest, domain.split, domain.resolution, domain.garment)


def about_photos(domain: Domain) -> dict:
    """Return what a result records about a list of photos."""
    return {"path": str(domain.source.path), "name": domain.source.name, "split": domain.split,
            "digest": domain.source.digest, "num_photos": len(domain.numbers),
            "garment": list(domain.garment)}


def open_test_photos(header: dict, network: Path, given: dict[str, str | None], split: str,
                     garment: tuple[str, ...] = ()) -> CyclePhotos:
    """Return the test photos of a network.

    Args:
        header: header of its snapshot. network: its file, for messages.
        given: {'A', 'B': a data set, a folder of pairs or of photos; None: the data set of the
            training}.
        split: split of data sets.
        garment: for a network of whole photos: classes; everything else is background.

    Raises:
        UserError: there are no such photos, they lack maps, a folder without a test split was the
            training's, or both lists are one.
    """
    if "+" in split:
        raise UserError(f"--split={split}: a CycleGAN is measured on one split, such as test")
    found = []
    for side, path in given.items():
        stored, option = header["domains"][side], OPTIONS[side]
        if path is None and not Path(stored["path"]).is_dir():
            raise UserError(f"{stored['path']}: no such folder here; it held the photos {side} of "
                            f"{network}: give test photos with --{option}=DIR")
        source = open_list(path or stored["path"])
        is_dataset = isinstance(source, DatasetInfo)
        if path is None and not is_dataset:
            raise UserError(f"--{option}: missing: {network} was trained with all photos of "
                            f"{stored['path']}, a folder without a test split: name a folder of "
                            "others")
        if source.digest == stored["digest"] and (not is_dataset or split == TRAIN):
            warn(f"warning: {source.path} has the same photos {side} that {network} was trained "
                 "with")
        if stored["digest"] != source.digest == header["domains"][OTHER[side]]["digest"]:
            warn(f"warning: --{option}: {source.path} is the list {OTHER[side]} of {network}, and "
                 f"is measured as {side}")
        names = tuple(stored["garment"]) or garment
        if names and not source.classes:
            raise UserError(f"--{option}: {source.path} has no maps that show the garment")
        names = tuple(find_class(name, source.classes, f"--{option}={source.path}, the garment")
                      for name in names)
        # For a network of whole photos, all are used, however little of these classes they show.
        smallest_share = SMALLEST_SHARE if stored["garment"] else 0.0
        domain = Domain.open(source, header["lod"]["resolution"], names,
                             split if is_dataset else TRAIN, smallest_share)
        warn_of_other_fit(source.path, domain.fit, stored.get("fit", domain.fit))
        found.append(domain)
    photos = CyclePhotos(*found)
    _check_apart(photos)
    return photos


def _check_apart(photos):
    """Raise UserError if both lists are the same; two garments of one list count as two lists."""
    a, b = photos
    if a.source.digest == b.source.digest and (
            not a.garment or not b.garment or set(a.garment) == set(b.garment)):
        raise UserError(f"--target: {b.source.path} has the same photos as {a.source.path}, those "
                        "of A; give those of the other kind")


def open_training_photos(header: dict, network: Path, photos: CyclePhotos) -> CyclePhotos:
    """Return the photos that a network was trained with. Raises UserError if they are neither in
    the same place nor in the data sets of the test `photos`."""
    found = []
    for side, stored in header["domains"].items():
        path = Path(stored["path"])
        sources = [open_list(path)] if path.is_dir() else []
        source = next((source for source in [*sources, photos.side(side).source]
                       if source.digest == stored["digest"]), None)
        if source is None:
            raise UserError(f"{path}: is not the folder of the photos {side} that {network} was "
                            "trained with; floors and the classifier of domains need them there, "
                            f"or their data set as --{OPTIONS[side]}")
        found.append(Domain.open(source, header["lod"]["resolution"], stored["garment"]))
    return CyclePhotos(*found)
