"""Image entries of an annotation file and the files that are their photos."""

import collections
import dataclasses
import itertools
from dataclasses import dataclass, field

from dataprep.annotations import MAX_INSTANCES, TOO_MANY

_NO_ANNOTATION = "no usable annotation"
_ANNOTATED = "annotated, so it belongs to labelled data"
_TAKEN = "photo is that of another id, too"
_SIZES = "photo is listed under several ids with different sizes"


@dataclass
class Matched:
    """What came of the image entries.

    pairs: [(Photo, key in the source)] in the order of ids; joined: how many ids were joined with
    another one of their photo; reasons: {id: why it is left out}; remarks: {kind: instances}, what
    the user is to know.
    """

    pairs: list = field(default_factory=list)
    joined: int = 0
    reasons: dict = field(default_factory=dict)
    remarks: dict = field(default_factory=lambda: collections.defaultdict(list))


def match_photos(photos: dict, source: object) -> Matched:
    """Find the photos of those of {id: Photo} that have annotations.

    A file that several ids name is one photo: their annotations are joined, as the photo could be
    in train and in test otherwise. Other ids that come upon it are left out.
    """
    result, claims = Matched(), collections.defaultdict(list)
    for image_id, photo in sorted(photos.items()):
        found = source.find(image_id, photo.file_name) if photo.instances else None
        if found is None:
            result.reasons[image_id] = _NO_ANNOTATION
        elif found.key is None:
            result.reasons[image_id] = found.reason
        else:
            claims[found.key].append((photo, found))
    return _settle_all(result, claims)


def match_untagged(photos: dict, source: object) -> Matched:
    """Find the photos of those of {id: Photo} that have no annotations under any id."""
    result, claims, annotated = Matched(), collections.defaultdict(list), set()
    for image_id, photo in sorted(photos.items()):
        found = source.find(image_id, photo.file_name)
        if photo.instances:
            annotated.add(found.key)
            result.reasons[image_id] = _ANNOTATED
        elif found.key is None:
            result.reasons[image_id] = found.reason
        else:
            claims[found.key].append((photo, found))
    for key in annotated & claims.keys():
        result.reasons |= {photo.image_id: _ANNOTATED for photo, _ in claims.pop(key)}
    return _settle_all(result, claims)


def _settle_all(result, claims):
    """The Matched with what comes of {key: [(Photo, Found)]}."""
    for key, claimants in claims.items():
        _settle(result, key, claimants)
    result.pairs.sort(key=lambda pair: pair[0].image_id)
    result.reasons = dict(sorted(result.reasons.items()))
    return result


def _settle(result, key, claimants):
    """Enter the photo of one file, or why it is left out."""
    alike = len({photo.file_name for photo, _ in claimants}) == 1
    sure = claimants if alike else [claim for claim in claimants if claim[1].exact]
    owners = [photo for photo, _ in sure]
    ids = {photo.image_id for photo in owners}
    others = [photo.image_id for photo, _ in claimants if photo.image_id not in ids]
    result.reasons |= dict.fromkeys(others, _TAKEN)
    instances = tuple(itertools.chain.from_iterable(photo.instances for photo in owners))
    if len({(photo.width, photo.height) for photo in owners}) > 1:
        result.reasons |= dict.fromkeys(ids, _SIZES)
    elif len(instances) > MAX_INSTANCES:
        result.reasons |= dict.fromkeys(ids, TOO_MANY)
    elif owners:
        result.pairs.append((dataclasses.replace(owners[0], instances=instances), key))
        result.joined += len(owners) - 1
        for kind, instance in itertools.chain.from_iterable(found.remarks for _, found in sure):
            result.remarks[kind].append(instance)
