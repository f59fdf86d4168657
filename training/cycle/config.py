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
MIN_RESOLUTION = 8  # two halvings leave two pixels, which the blocks need to pad by reflection

# A preset lists the options that it changes. Its comment says what it is for.
PRESETS = {
    # Zhu et al. 2017, "Unpaired image-to-image translation using cycle-consistent adversarial
    # networks", sections 3, 4 and 7: the defaults below. 267 kimg are 200 passes through the 1,334
    # zebras; for other lists give --kimg. In all presets, photos are enlarged bilinearly, in one
    # step with everything else that moves them, and instance norms have no scale and offset.
    "zhu": {},
    # "Clothing texture synthesis using CycleGAN": batch norm, minibatches of 10, a learning rate of
    # 0.002, 250 passes through 622 photos (155.5 kimg), flips, rotations, clipped gradients, and a
    # critic that scores whole pictures. The paper leaves open: the angles (here 10 degrees); the
    # norm to clip to (here 10: norms of a narrow network at 32x32 were 14 at first, 10 after 1
    # kimg); whether the critic's "one dimensional output" is one number (here it is the mean of its
    # patches' logits); and pool and decay (here Zhu et al.'s, the paper's "starting point").
    "leather-denim": dict(norm="batch", critic="picture", minibatch=10, lrate=0.002, kimg=155.5,
                          rotation=10.0, clip_norm=10.0),
    # A few hundred photos at 64x64 in hours on two CPU cores: six blocks, as Zhu et al. have for
    # small photos, a quarter of the feature maps, and critics with patches of 34x34 pixels, since
    # patches of 70x70 would be larger than a photo.
    "small": dict(blocks=6, fmaps=16, strides=2, kimg=40.0, minibatch=4, tick_kimg=1.0,
                  network_ticks=4),
    # Pictures of 16x16 and tests: seconds.
    "tiny": dict(blocks=1, fmaps=8, strides=1, kimg=1.6, minibatch=4, lrate=2e-3, pool=8,
                 tick_kimg=0.4, network_ticks=1),
}


@dataclass(frozen=True)
class CycleConfig(MethodConfig):
    """Options of the training of two generators between two lists of photos, A (--data) and B
    (--target)."""

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "zhu"
    cells: ClassVar = "photo, translated, translated back: A above, B below"
    fixed: ClassVar = frozenset({"variant", "resolution", "garment", "target_garment", "blocks",
                                 "fmaps", "norm", "critic", "strides", "pool"})

    variant: str = option("cyclegan", "CycleGAN between two lists of photos",
                          choices=("cyclegan",))
    data: str = option("datasets/a", "photos A: a data set, a folder of pairs, or a folder of "
                       "photos", metavar="DIR")
    target: str = option("", "photos B, likewise", metavar="DIR")
    garment: str | None = option(
        None, "translate only these classes; critics see nothing else. On one side at least, "
        "photos must come from a data set or pairs with class maps", metavar="CLASSES")
    target_garment: str | None = option(
        None, "the classes in --target, if they differ", metavar="CLASSES")
    blocks: int = option(9, "residual blocks of a generator; 6 for small photos", **BLOCKS)
    fmaps: int = option(64, "feature maps of the first layer of all four networks", **SIZE)
    norm: str = option("instance", "what is normalised together: each picture, or the minibatch",
                       choices=NORMS)
    critic: str = option("patch", "what a critic's loss is computed from: every patch's logit, or "
                         "each picture's mean logit", choices=CRITICS)
    strides: int = option(3, "layers of a critic that halve the size; with 3 its patches have "
                          "70x70 pixels, with 2 34x34, with 1 16x16", low=1, high=8)
    kimg: float = option(267.0, "thousands of photos shown from each list", **KIMG)
    minibatch: int = option(1, "photos from each list per step over all devices", **SIZE)
    minibatch_per_gpu: int = option(
        0, "photos from each list that a device processes at once, which saves memory and gives "
        "the same gradients; 0: all of its share", low=0, high=MAX_COUNT)
    lrate: float = option(2e-4, "learning rate, which falls linearly to 0 over the second half of "
                          "the training", low=1e-8, high=10)
    precision: str = option("fp32", PRECISION, choices=PRECISIONS)
    cycle_weight: float = option(10.0, "weight lambda of the cycle loss", **WEIGHT)
    identity_weight: float = option(
        0.0, "weight, times lambda, of what a generator changes in photos that are already in its "
        "target list; 0.5 preserves colours", **WEIGHT)
    pool: int = option(50, "number of generated pictures kept to show to each critic later; 0: "
                       "show only new ones", low=0, high=MAX_COUNT)
    jitter: float = option(1.117188, "enlarge photos by this factor, 286 / 256, and crop them at "
                           "random; 1: leave them unchanged", low=1, high=2)
    flip: bool = option(True, "flip half of the photos left to right")
    rotation: float = option(0.0, "rotate photos by up to this many degrees", low=0, high=180)
    clip_norm: float = option(0.0, "scale a network's gradient down to at most this norm; 0: never",
                              **WEIGHT)
    tick_kimg: float = option(4.0, "length of a tick in kimg", above=0, high=KIMG["high"])

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) for each combination that makes an option useless.
        """
        return (
            (self.patience, "--patience: no score is measured that could stop improving"),
            (self.norm == "batch" and self.minibatch == 1,
             "--norm=batch: a single picture's statistics give no useful running means; give "
             "--norm=instance, or a larger --minibatch"),
            (self.norm == "batch" and self.minibatch_per_gpu,
             "--minibatch-per-gpu: --norm=batch normalises what is processed at once: in parts, it "
             "would be a different training"),
            (self.minibatch_per_gpu > self.minibatch,
             f"--minibatch-per-gpu={self.minibatch_per_gpu}: a minibatch has {self.minibatch} "
             "photos of each list"),
            (self.target_garment and not self.garment,
             "--target-garment: is for --garment, which is not given"),
            (self.identity_weight and not self.cycle_weight,
             "--identity-weight: is a share of --cycle-weight, which is 0"))


def generator_names(direction: str) -> list[str]:
    """Return the names of the generators for the direction and for the way back."""
    there = GENERATORS[direction]
    return [there, *(name for name in GENERATORS.values() if name != there)]
