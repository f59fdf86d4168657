"""The options of a training that draws people in other poses, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from training.method_config import KIMG, SIZE, WEIGHT, option
from training.translation.config import CRITICS, ConditionalConfig

SKIPS = ("deformable", "plain")
# How a generated photo is compared with the target, and the weight of this relative to the GAN
# loss. Pose-gan's weight, 0.01, is for sums over a VGG's features; for means over colours we take
# pix2pix's 100.
RECONSTRUCTIONS = {"nearest": 100.0, "l1": 100.0, "none": 0.0}

# A preset lists the options that it changes. Its comment says what it is for.
PRESETS = {
    # Networks of "Deformable GANs for pose-based human image generation" for photos of 128x128;
    # otherwise as "Next steps for image synthesis using semantic segmentation" trains them, section
    # 4.2: pix2pix's Adam, 100 epochs. An epoch is 1,000 steps here; the paper does not give its
    # length. One GPU.
    "pose-gan": {},
    # A few hundred people at 64x64 on two CPU cores.
    "small": dict(g_fmaps=16, d_fmaps=32, halvings=4, d_strides=2, kimg=40.0, tick_kimg=1.0,
                  network_ticks=4),
    # Pictures of 16x16 and tests: seconds.
    "tiny": dict(g_fmaps=8, d_fmaps=8, halvings=3, d_strides=1, kimg=0.4, tick_kimg=0.2,
                 network_ticks=1),
}


@dataclass(frozen=True)
class PoseConfig(ConditionalConfig):
    """Options of the training of a generator that draws the person of a photo in another pose.

    Sources: pose-gan is Siarohin et al. 2018, "Deformable GANs for pose-based human image
    generation"; critics of heatmaps are those of "Next steps for image synthesis using semantic
    segmentation" (2020).
    """

    presets: ClassVar = PRESETS
    weights: ClassVar = RECONSTRUCTIONS
    default_preset: ClassVar = "pose-gan"
    cells: ClassVar = "photo, target pose, generated photo, photo in that pose"
    fixed: ClassVar = frozenset({"variant", "resolution", "skips", "critic", "halvings", "norm",
                                 "dropout", "g_fmaps", "d_fmaps", "d_strides"})

    variant: str = option("pose", "people in other poses", choices=("pose",))
    data: str = option("datasets/poses", "data set with keypoints and pairs of photos of one "
                       "person, made by dataset_tool.py", metavar="DIR")
    skips: str = option(
        "deformable", "how features of the source photo reach the decoder. deformable: ten parts "
        "of the body are moved to their places in the target pose; plain: unchanged",
        choices=SKIPS)
    critic: str = option(
        "patch", "patch: D scores patches; semantic: it has one map of logits for every keypoint, "
        "weighted by its heatmap, and one for everything; capacity: as many maps without weights, "
        "for comparison", choices=CRITICS)
    reconstruction: str = option(
        "nearest", "how generated photos are also compared with the target. nearest: every pixel "
        "with the most similar one nearby; l1: with the one at the same place; none: not at all",
        choices=tuple(RECONSTRUCTIONS))
    reconstruction_weight: float | None = option(
        None, "weight of this comparison relative to the GAN loss (default: 100)", **WEIGHT)
    neighbourhood: int = option(3, "side in pixels of the square in which "
                                "--reconstruction=nearest searches; odd", low=1, high=15)
    halvings: int = option(5, "layers of the generator's encoders that halve the size", low=1,
                           high=8)
    dropout: float = option(0.5, "dropout rate of the decoder's three innermost blocks, also after "
                            "training, as in pix2pix; 0: none", low=0, high=0.9)
    kimg: float = option(400.0, "thousands of pairs shown; the learning rate falls over the second "
                         "half", **KIMG)
    minibatch: int = option(4, "pairs per step over all devices", **SIZE)
    mirror: bool = option(True, "flip half of the pairs left to right, with their keypoints")
    tick_kimg: float = option(4.0, "length of a tick in kimg", above=0, high=KIMG["high"])

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) for each combination that makes an option useless.
        """
        default = type(self).__dataclass_fields__["neighbourhood"].default
        return (
            *super().refusals(),
            (self.reconstruction != "nearest" and self.neighbourhood != default,
             "--neighbourhood: is for --reconstruction=nearest"),
            (self.neighbourhood % 2 == 0,
             f"--neighbourhood={self.neighbourhood}: expected an odd number, so that the pixel "
             "itself is in the middle"))
