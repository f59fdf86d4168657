"""The options of a training that draws people in other poses, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from training.method_config import KIMG, SIZE, WEIGHT, option
from training.translation.config import CRITICS, ConditionalConfig

SKIPS = ("deformable", "plain")
# How a generated photo is compared with the target's, and with what weight beside the GAN loss.
# Pose-gan's 0.01 is of sums over a VGG's features; of means over colours it is pix2pix's 100.
RECONSTRUCTIONS = {"nearest": 100.0, "l1": 100.0, "none": 0.0}

# A preset lists what it changes. Its comment says what it is for.
PRESETS = {
    # Networks of "Deformable GANs for pose-based human image generation" for photos of 128x128;
    # otherwise as "Next steps for image synthesis using semantic segmentation" trains them, section
    # 4.2: pix2pix's Adam, 100 epochs, here of 1,000 steps, since their length is not said. One GPU.
    "pose-gan": {},
    # Some hundreds of people at 64x64 on two CPU cores.
    "small": dict(g_fmaps=16, d_fmaps=32, halvings=4, d_strides=2, kimg=40.0, tick_kimg=1.0,
                  network_ticks=4),
    # Pictures of 16x16 and tests: seconds.
    "tiny": dict(g_fmaps=8, d_fmaps=8, halvings=3, d_strides=1, kimg=0.4, tick_kimg=0.2,
                 network_ticks=1),
}


@dataclass(frozen=True)
class PoseConfig(ConditionalConfig):
    """A training of a generator that draws the person of a photo in another pose.

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
        "deformable", "how features of the source photo reach the decoder. deformable: those of "
        "ten parts of the body moved to where the target pose has them; plain: as they are",
        choices=SKIPS)
    critic: str = option(
        "patch", "patch: D judges patches; semantic: with a map of logits for every keypoint, "
        "weighted by its heatmap, and one for everything; capacity: as many maps without weights, "
        "to compare with", choices=CRITICS)
    reconstruction: str = option(
        "nearest", "how generated photos are compared with the target's besides. nearest: every "
        "pixel with the one most like it near its place; l1: with the one at its place; none",
        choices=tuple(RECONSTRUCTIONS))
    reconstruction_weight: float | None = option(
        None, "of this comparison beside the GAN loss (default: 100)", **WEIGHT)
    neighbourhood: int = option(3, "side in pixels of the square that --reconstruction=nearest "
                                "looks at, odd", low=1, high=15)
    halvings: int = option(5, "layers of the generator's encoders that halve", low=1, high=8)
    dropout: float = option(0.5, "of the decoder's three innermost blocks, in use too, as "
                            "pix2pix's; 0: none", low=0, high=0.9)
    kimg: float = option(400.0, "thousands of pairs shown; the learning rate falls from half of "
                         "them on", **KIMG)
    minibatch: int = option(4, "pairs per step over all devices", **SIZE)
    mirror: bool = option(True, "flip half of the pairs left to right, keypoints along")
    tick_kimg: float = option(4.0, "length of a tick", above=0, high=KIMG["high"])

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) of every combination in which an option is idle."""
        default = type(self).__dataclass_fields__["neighbourhood"].default
        return (
            *super().refusals(),
            (self.reconstruction != "nearest" and self.neighbourhood != default,
             "--neighbourhood: is for --reconstruction=nearest"),
            (self.neighbourhood % 2 == 0,
             f"--neighbourhood={self.neighbourhood}: expected an odd number, the middle one is the "
             "pixel's own place"))
