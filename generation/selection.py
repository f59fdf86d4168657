"""Choose pairs by their maps: which classes they show, how large, and with what confidence.

Seeds are tried in order until enough pairs are accepted. Which pairs are accepted depends on the
seeds and the options alone. Samples are always made BLOCK at a time, because minibatches of other
sizes round differently: a pair at the limit of an area could be accepted with one size and rejected
with another.

Everything is measured on the photo, without the padding around it if the padding is known.
"""

import copy
import shlex
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from dnnlib.data import channels
from dnnlib.data.class_list import find_class
from dnnlib.util import UserError
from training.sampler import Sampler, label_maps

BLOCK = 16  # samples made at a time
TRAINED_MARGIN = 0.5  # maps are trained to -0.5 and 0.5, the background counts as 0
_NEIGHBOURS = np.ones((3, 3), bool)
Box = tuple[int, int, int, int]  # left, top, right, bottom
RARE = 0.01  # share of the seeds below which a class is hardly ever drawn


class GaveUpError(UserError):
    """Too many seeds in a row were rejected, or no seeds remain."""


@dataclass(frozen=True)
class Selection:
    """Conditions for accepting a pair.

    Attributes:
        require: names of classes, all of which the pair must show.
        min_area: share of the photo from which a class counts as shown; 0: any pixel.
        balance: least share of the pairs that shows each class, or {class: share} for some classes;
            0: no balance.
        min_confidence: see `confidence`.
    """

    require: tuple[str, ...] = ()
    min_area: float = 0.0
    balance: float | dict[str, float] = 0.0
    min_confidence: float = 0.0

    def match_classes(self, classes: Sequence[str]) -> "Selection":
        """Return the same selection with class names spelled as in `classes`, the network's. Raises
        UserError if the network cannot draw such pairs."""
        if not classes:
            raise UserError("the network draws no maps (RGB only), by which pairs could be chosen")
        require = dict.fromkeys(find_class(name, classes, "--require") for name in self.require)
        balance = self.balance if not isinstance(self.balance, dict) else {
            find_class(name, classes, "--balance"): share for name, share in self.balance.items()}
        if isinstance(balance, dict) and len(balance) < len(self.balance):
            raise UserError(f"--balance: {', '.join(self.balance)} name a class twice; give each "
                            "one share")
        return replace(self, require=tuple(require), balance=balance)

    def shares(self, classes: Sequence[str]) -> dict[str, float]:
        """Return {class: least share of the pairs that shows it}; {} without a balance."""
        if isinstance(self.balance, dict):
            return self.balance
        return dict.fromkeys(classes, self.balance) if self.balance else {}


@dataclass(frozen=True)
class SampleRecipe:
    """Everything that determines a sample's pixels, besides the seed."""

    digest: str
    resolution: int
    fade: float
    trunc: float
    trunc_cutoff: int
    noise: str
    class_label: int | tuple | None = None  # the label given to a conditional network
    box: tuple | None = None  # the part that is written: left, top, right, bottom; None: all
    min_region: int | None = None  # least pixels of a region; None: maps are as drawn


class Traits(NamedTuple):
    """The measurements that decide about a pair. areas: each class's share of the photo, float64
    [C]."""

    areas: np.ndarray
    confidence: float


def crop_to_box(arrays: np.ndarray, box: Box | None) -> np.ndarray:
    """Return the part of arrays [N, H, W, ...] inside a box."""
    left, top, right, bottom = box or (0, 0, arrays.shape[2], arrays.shape[1])
    return arrays[:, top:bottom, left:right]


def measure(images: np.ndarray, label_maps: np.ndarray) -> list[Traits]:
    """Return the Traits of images float32 [N, H, W, 3 + C] and their label maps [N, H, W]."""
    num_labels = images.shape[-1] - channels.NUM_COLOURS + 1
    counts = [np.bincount(label_map.ravel(), minlength=num_labels) for label_map in label_maps]
    return [Traits(count[1:] / label_maps[0].size, value)
            for count, value in zip(counts, confidence(images))]


def confidence(images: np.ndarray) -> list[float]:
    """Return the confidence of each image's maps, from 0 to 1, to three digits.

    Margins (channels.margins) are divided by their value in real images: 0.5, since maps are
    trained to -0.5 and 0.5. The confidence is the mean over the labels in the map, including the
    background, of the mean margin of their pixels. As in the mean IoU, a belt counts as much as the
    background, and small areas with tiny margins lower it.

    Args:
        images: float32 [N, H, W, 3 + C], C of 1 or more.
    """
    values = []
    for image in images:
        segmaps = image[..., channels.SEGMAPS]
        label_map = channels.to_label_map(segmaps).ravel()
        margins = np.minimum(channels.margins(segmaps).ravel() / TRAINED_MARGIN, 1)
        counts, sums = np.bincount(label_map), np.bincount(label_map, margins)
        values.append(round(float((sums[counts > 0] / counts[counts > 0]).mean()), 3))
    return values


@dataclass
class Tally:
    """Counts of a selection so far: all that it needs to continue.

    Attributes:
        tried, accepted: numbers of seeds.
        in_a_row: seeds rejected since the last accepted one.
        seen, shown: {class: number of tried, of accepted pairs that show it}.
        rejected: {reason: number of pairs}, by the first reason that applies.
    """

    tried: int = 0
    accepted: int = 0
    in_a_row: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    shown: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)

    def decide(self, selection: Selection, classes: Sequence[str], traits: Traits) -> bool:
        """Return whether the next pair is accepted, and count it."""
        self.tried += 1
        are_shown = traits.areas > 0 if not selection.min_area else \
            traits.areas >= selection.min_area
        present = [name for name, is_shown in zip(classes, are_shown) if is_shown]
        for name in present:
            self.seen[name] = self.seen.get(name, 0) + 1
        reason = self._rejection_reason(selection, classes, present, traits.confidence)
        if reason is not None:
            self.in_a_row += 1
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
            return False
        self.accepted, self.in_a_row = self.accepted + 1, 0
        for name in present:
            self.shown[name] = self.shown.get(name, 0) + 1
        return True

    def _rejection_reason(self, selection, classes, present, sureness):
        """Return why a pair that shows the classes `present` is rejected; None if it is not."""
        missing = [name for name in selection.require if name not in present]
        if missing:
            return f"without {missing[0]}"
        if sureness < selection.min_confidence:
            return "unsure"
        # How many pairs of each class would be missing among accepted + 1 pairs. The new pair must
        # show one of the classes that lack most (within one pair).
        lacking = {name: share * (self.accepted + 1) - self.shown.get(name, 0)
                   for name, share in selection.shares(classes).items()}
        worst = max(lacking.values(), default=0)
        if worst > 0 and not any(lacking.get(name, 0) > 0 and lacking[name] >= worst - 1
                                 for name in present):
            return "not needed for the balance"
        return None

    def lines(self, selection: Selection, classes: Sequence[str]) -> list[str]:
        """Return lines that summarise the counts."""
        def percent(part: int, whole: int) -> str:
            return f"{100 * part / max(whole, 1):.3g} %"

        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        lines = [f"tried {self.tried} seeds, accepted {self.accepted} "
                 f"({percent(self.accepted, self.tried)})"
                 + (f"; rejected: {reasons}" if reasons else "")]
        shares = selection.shares(classes)
        named = [name for name in classes if name in shares or name in selection.require]
        if named:
            area = f" on {100 * selection.min_area:g} % or more" if selection.min_area else ""
            lines.append(f"shown{area} by accepted pairs (by all tried): " + ", ".join(
                f"{name} {percent(self.shown.get(name, 0), self.accepted)} "
                f"({percent(self.seen.get(name, 0), self.tried)})" for name in named))
        return lines


def sum_tallies(tallies: Sequence[Tally]) -> Tally:
    """Return the Tally of several selections together."""
    total = Tally()
    for tally in tallies:
        for name, value in vars(tally).items():
            mine = getattr(total, name)
            if isinstance(value, dict):
                mine.update({key: mine.get(key, 0) + count for key, count in value.items()})
            else:
                setattr(total, name, mine + value)
    return total


@dataclass(frozen=True)
class Request:
    """Which pairs are wanted.

    Attributes:
        seeds: seeds to try, in this order.
        num: pairs wanted; as many as seeds if all are accepted.
        minibatch: samples made at a time.
        selection: None accepts all pairs.
        max_tries: seeds that may be rejected in a row.
        title: title of the progress bar.
    """

    seeds: range
    num: int
    minibatch: int = BLOCK
    selection: Selection | None = None
    max_tries: int = 0
    title: str = "pairs"

    def identity(self) -> dict:
        """Return what, besides a sample's recipe, decides which seeds are accepted."""
        return {"first_seed": self.seeds.start, "step": self.seeds.step,
                **{name: list(value) if isinstance(value, tuple) else value
                   for name, value in asdict(self.selection).items()}}

    def is_over(self, tally: Tally) -> bool:
        """Return whether to stop: all pairs are found, or too many seeds in a row were rejected."""
        return tally.accepted >= self.num or tally.in_a_row >= self.max_tries

    def check_found(self, tally: Tally, classes: Sequence[str]) -> None:
        """Raise GaveUpError if fewer pairs were accepted than wanted."""
        if tally.accepted >= self.num:
            return
        what, advice = f"{tally.in_a_row} seeds in a row were rejected", (
            "Ask for less, or for more patience with --max-tries: the same command continues")
        if tally.in_a_row < self.max_tries:
            what = f"the seeds end at {self.seeds[-1]}"
            advice = "Choose a smaller --first-seed, and another folder"
        # Name the classes too rare for a balance, and suggest a balance of the others.
        shares = self.selection.shares(classes)
        rare = [name for name in shares if tally.seen.get(name, 0) < RARE * tally.tried]
        if rare:
            advice += f". Hardly ever drawn: {', '.join(rare)}"
        if 0 < len(rare) < len(shares):
            # Commas separate classes; names match whatever their punctuation.
            others = ",".join(f"{name.replace(',', ' ')}:{100 * share:g}%"
                              for name, share in shares.items() if name not in rare)
            advice += ("; balance the others alone, in another folder: "
                       f"--balance={shlex.quote(others)}")
        raise GaveUpError(f"{what}, with {tally.accepted} of {self.num} pairs accepted: "
                          f"{'; '.join(tally.lines(self.selection, classes))}. {advice}")


class SampleBatch(NamedTuple):
    """Some samples. images: float32 [n, H, W, 3 + C]; tally: of a selection, after these samples.
    """

    seeds: list[int]
    images: np.ndarray
    tally: Tally | None = None


def make_samples(sampler: Sampler, recipe: SampleRecipe, request: Request,
                 done: Container[int] = (), tally: Tally | None = None) -> Iterator[SampleBatch]:
    """Yield the samples of a request, except those of the seeds in `done`: all, or, BLOCK by BLOCK,
    those that a selection accepts, until there are enough or it gives up. Images are complete, with
    the padding that the recipe may leave out.

    Args:
        tally: tally of a selection to continue.
    """
    if request.selection is None:
        seeds = [seed for seed in request.seeds if seed not in done]
        yield from _all_samples(sampler, recipe, seeds, request.minibatch)
        return
    # Blocks begin at the same seeds, wherever a selection was interrupted.
    tally = copy.deepcopy(tally or Tally())
    start = tally.tried // BLOCK * BLOCK
    for batch in _all_samples(sampler, recipe, request.seeds[start:], BLOCK):
        photos = crop_to_box(batch.images, sampler.content_box)
        traits = measure(photos, label_maps(photos))
        wanted = []
        for place in range(tally.tried - start, len(batch.seeds)):
            if request.is_over(tally):
                break
            is_accepted = tally.decide(request.selection, sampler.classes, traits[place])
            if is_accepted and batch.seeds[place] not in done:
                wanted.append(place)
        yield SampleBatch([batch.seeds[place] for place in wanted], batch.images[wanted],
                          copy.deepcopy(tally))
        if request.is_over(tally):
            return
        start += BLOCK


def _all_samples(sampler, recipe, seeds, minibatch):
    """Yield the samples of all `seeds`. The last minibatch is filled up, since a network compiled
    for several sizes rounds differently from one compiled for a single size."""
    for start in range(0, len(seeds), minibatch):
        part = list(seeds[start:start + minibatch])
        whole = part + part[-1:] * (minibatch - len(part))
        images, = sampler.seed_images(whole, recipe.trunc, recipe.noise, minibatch)
        yield SampleBatch(part, without_small_regions(images.numpy()[:len(part)],
                                                      recipe.min_region, sampler.content_box,
                                                      recipe.box))


def without_small_regions(images: np.ndarray, min_region: int | None, photo: Box | None = None,
                          written: Box | None = None) -> np.ndarray:
    """Return images in whose maps regions of fewer than `min_region` pixels have the label of most
    pixels around them; their values are swapped with those of that label.

    A region is a set of pixels of one label, background included, that are connected by their sides
    or corners. Labels are processed in order, the background first, on the result of the labels
    before. The photo is processed first, as if there were no padding, so that it is the same with
    and without padding.

    Args:
        images: float32 [N, H, W, 3 + C], not modified. min_region: None for no change.
        photo, written: boxes of the photo, and of the part that is written; None: all.
    """
    if min_region is None or images.shape[-1] == channels.NUM_COLOURS:
        return images
    images = images.copy()
    for box in dict.fromkeys((photo, written)):
        for image in crop_to_box(images, box):
            _relabel_small_regions(image[..., channels.SEGMAPS], min_region)
    return images


def _relabel_small_regions(segmaps, min_region):
    """Change the maps [H, W, C] of an image in place; see `without_small_regions`."""
    label_map = channels.to_label_map(segmaps)
    for label in np.unique(label_map):
        numbered, _ = ndimage.label(label_map == label, _NEIGHBOURS)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
            place = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in (rows, columns))
            region = numbered[place] == number
            if np.count_nonzero(region) >= min_region:
                continue
            around = label_map[place][ndimage.binary_dilation(region, _NEIGHBOURS) & ~region]
            if len(around):  # else the region is the whole image
                new = np.bincount(around).argmax()
                segmaps[place][region] = _relabelled(segmaps[place][region], label, new)
                label_map[place][region] = new


def _relabelled(values, old, new):
    """Return pixels' maps [n, C] with the label `new` in place of `old`."""
    values = values.copy()
    if old and new:
        values[:, [old - 1, new - 1]] = values[:, [new - 1, old - 1]]
    elif old:
        values = -np.abs(values)
    else:
        values[:, new - 1] = np.maximum(-values[:, new - 1], np.finfo(np.float32).tiny)
    return values
