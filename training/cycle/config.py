"""The options of a CycleGAN's training, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from training.method_config import (
    BLOCKS,
    KIMG,
    MAX_COUNT,
    PRECISION,
    PRECISIONS,
    SIZE,
    WEIGHT,
    MethodConfig,
    option,
)
from training.translation.config import NORMS

CRITICS = ("patch", "picture")
GENERATORS = {"AtoB": "G_AB", "BtoA": "G_BA"}  # direction: its network
MIN_RESOLUTION = 8  # two halvings leave two pixels, which the generators' blocks reflect

# A preset lists what it changes. Its comment says what it is for.
PRESETS = {
    # Zhu et al. 2017, "Unpaired image-to-image translation using cycle-consistent adversarial
    # networks", sections 3, 4 and 7: the defaults below. 267 kimg are 200 passes through the 1,334
    # zebras; for other lists give --kimg. Besides, here and in all presets: photos are enlarged
    # bilinearly, in one step with what else moves them; norms of single pictures have no scale and
    # offset.
    "zhu": {},
    # "Clothing texture synthesis using CycleGAN": batch norm, minibatches of 10, a learning rate of
    # 0.002, 250 passes through 622 photos (155.5 kimg), flips, rotations, gradients clipped, and a
    # critic that scores whole pictures. The paper leaves open by which angles (here 10 degrees), to
    # which norm (here 10: those of a narrow network at 32x32 were 14 at first, 10 after 1 kimg),
    # whether the critic's "one dimensional output" is one number (here the mean of its patches'
    # logits), and pool and decay (here Zhu et al.'s, its "starting point").
    "leather-denim": dict(norm="batch", critic="picture", minibatch=10, lrate=0.002, kimg=155.5,
                          rotation=10.0, clip_norm=10.0),
    # A few hundred photos at 64x64 in hours of two CPU cores: six blocks as Zhu et al. have for
    # small photos, a quarter of the feature maps, and critics of 34x34 pixels, since patches of
    # 70x70 are larger than a photo.
    "small": dict(blocks=6, fmaps=16, strides=2, kimg=40.0, minibatch=4, tick_kimg=1.0,
                  network_ticks=4),
    # Pictures of 16x16 and tests: seconds.
    "tiny": dict(blocks=1, fmaps=8, strides=1, kimg=1.6, minibatch=4, lrate=2e-3, pool=8,
                 tick_kimg=0.4, network_ticks=1),
}


@dataclass(frozen=True)
class CycleConfig(MethodConfig):
    """A training of two generators between two lists of photos, A (--data) and B (--target)."""

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "zhu"
    cells: ClassVar = "photo, translated, translated back: of A above, of B below"
    fixed: ClassVar = frozenset({"variant", "resolution", "garment", "target_garment", "blocks",
                                 "fmaps", "norm", "critic", "strides", "pool"})

    variant: str = option("cyclegan", "CycleGAN between two lists of photos",
                          choices=("cyclegan",))
    data: str = option("datasets/a", "photos A: a data set, a folder of pairs, or a folder of "
                       "photos", metavar="DIR")
    target: str = option("", "photos B, likewise", metavar="DIR")
    garment: str | None = option(
        None, "translate these classes alone; critics see nothing else. Photos come from data sets "
        "or pairs with class maps, on one side at least", metavar="CLASSES")
    target_garment: str | None = option(
        None, "the classes of --target, if others", metavar="CLASSES")
    blocks: int = option(9, "residual blocks of a generator; 6 for small photos", **BLOCKS)
    fmaps: int = option(64, "feature maps of the first layer of all four networks", **SIZE)
    norm: str = option("instance", "what is normalised together: each picture, or the minibatch",
                       choices=NORMS)
    critic: str = option("patch", "what a critic's loss is of: every patch's logit, or their mean, "
                         "one of a picture", choices=CRITICS)
    strides: int = option(3, "layers of a critic that halve; 3: its patches are of 70x70 pixels, "
                          "2: 34x34, 1: 16x16", low=1, high=8)
    kimg: float = option(267.0, "thousands of photos shown of each list", **KIMG)
    minibatch: int = option(1, "photos of each list per step over all devices", **SIZE)
    minibatch_per_gpu: int = option(
        0, "photos of each list that a device takes at once, which saves memory and gives the same "
        "gradients; 0: all of its share", low=0, high=MAX_COUNT)
    lrate: float = option(2e-4, "learning rate, which falls to 0 along a line over the second half "
                          "of the training", low=1e-8, high=10)
    precision: str = option("fp32", PRECISION, choices=PRECISIONS)
    cycle_weight: float = option(10.0, "weight lambda of the way there and back", **WEIGHT)
    identity_weight: float = option(
        0.0, "weight, times lambda, of what a generator changes of photos that are in its list "
        "already; 0.5 keeps colours", **WEIGHT)
    pool: int = option(50, "generated pictures that are kept to be shown to a critic later; 0: it "
                       "sees new ones alone", low=0, high=MAX_COUNT)
    jitter: float = option(1.117188, "photos are enlarged by this factor, 286 / 256, and cropped "
                           "at random; 1: as they are", low=1, high=2)
    flip: bool = option(True, "flip half of the photos left to right")
    rotation: float = option(0.0, "rotate photos by up to so many degrees", low=0, high=180)
    clip_norm: float = option(0.0, "scale a network's gradient down to this norm; 0: never",
                              **WEIGHT)
    tick_kimg: float = option(4.0, "length of a tick", above=0, high=KIMG["high"])

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) of every combination in which an option is idle."""
        return (
            (self.patience, "--patience: no score is measured that could get no better"),
            (self.norm == "batch" and self.minibatch == 1,
             "--norm=batch: a single picture's statistics are no running means to use later; give "
             "--norm=instance, or a larger --minibatch"),
            (self.norm == "batch" and self.minibatch_per_gpu,
             "--minibatch-per-gpu: --norm=batch normalises what is taken at once: in parts it is "
             "another training"),
            (self.minibatch_per_gpu > self.minibatch,
             f"--minibatch-per-gpu={self.minibatch_per_gpu}: a minibatch has {self.minibatch} "
             "photos of each list"),
            (self.target_garment and not self.garment,
             "--target-garment: is for --garment, which is not given"),
            (self.identity_weight and not self.cycle_weight,
             "--identity-weight: is a share of --cycle-weight, which is 0"))


def there_and_back(direction: str) -> list[str]:
    """Return the names of the generators that lead there and back."""
    there = GENERATORS[direction]
    return [there, *(name for name in GENERATORS.values() if name != there)]
