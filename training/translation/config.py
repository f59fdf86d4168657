"""The options of a training that draws photos from maps, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from training.method_config import (
    BLOCKS,
    KIMG,
    PRECISION,
    PRECISIONS,
    SIZE,
    WEIGHT,
    MethodConfig,
    option,
)

CRITICS = ("patch", "semantic", "capacity")
GENERATORS = ("unet", "resnet")
NORMS = ("instance", "batch")
# How a generated photo is compared with the real one, and the weight of this relative to the GAN
# loss: pix2pix's 100 for pixels, 10 for maps as in "Next steps for image synthesis using semantic
# segmentation", 10 for VGG's features as in pix2pixHD.
RECONSTRUCTIONS = {"l1": 100.0, "semantic": 10.0, "vgg": 10.0, "none": 0.0}
HIGHER_IS_BETTER = ("miou", "is", "pr")  # how the names of these metrics begin

# A preset lists the options that it changes. Its comment says what it is for.
PRESETS = {
    # As in the pix2pix paper: 200 epochs of the 400 facades at 256x256. One GPU.
    "pix2pix": {},
    # A few hundred photos at 64x64 on two CPU cores: minutes to an hour.
    "small": dict(g_fmaps=32, d_fmaps=32, d_strides=2, minibatch=4, kimg=40.0, tick_kimg=1.0,
                  network_ticks=4),
    # Pictures of 16x16 and tests: seconds.
    "tiny": dict(g_fmaps=8, d_fmaps=8, d_strides=1, minibatch=4, kimg=0.4, tick_kimg=0.2,
                 network_ticks=1),
}


@dataclass(frozen=True)
class ConditionalConfig(MethodConfig):
    """Options of a generator whose photos are also compared with real ones, besides the GAN loss.

    Subclasses define the critics and reconstructions. `weights` has the weight that each
    reconstruction has in its source; it is used if `reconstruction_weight` is None.
    """

    weights: ClassVar[dict[str, float]]

    critic: str = option("patch", "", choices=CRITICS)
    reconstruction: str = option("", "")
    reconstruction_weight: float | None = option(None, "", **WEIGHT)
    g_fmaps: int = option(64, "feature maps of the generator's first layer", **SIZE)
    norm: str = option("instance", "normalisation in all networks. instance: each picture's own "
                       "statistics, as batch norm has in minibatches of one; batch: statistics of "
                       "the minibatch, and running means after training", choices=NORMS)
    d_fmaps: int = option(64, "feature maps of the discriminator's first layer", **SIZE)
    d_strides: int = option(3, "layers of the discriminator that halve the size: with 3 it sees "
                            "patches of 70x70 pixels, with 2 of 34x34, with 1 of 16x16", low=1,
                            high=6)
    minibatch: int = option(1, "", **SIZE)
    lrate: float = option(2e-4, "learning rate of the first half", low=1e-8, high=10)
    precision: str = option("fp32", PRECISION, choices=PRECISIONS)

    def weight_of_reconstruction(self) -> float:
        """Return the weight that is given, or else that of the reconstruction's source."""
        if self.reconstruction_weight is None:
            return self.weights[self.reconstruction]
        return self.reconstruction_weight

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) of every combination in which an option is idle."""
        return (
            (self.reconstruction == "none" and self.reconstruction_weight,
             "--reconstruction-weight: --reconstruction=none compares nothing"),
            (self.reconstruction != "none" and self.reconstruction_weight == 0,
             f"--reconstruction-weight=0: leaves --reconstruction={self.reconstruction} out; give "
             "--reconstruction=none"),
            (self.norm == "batch" and self.minibatch == 1,
             "--norm=batch: a single picture's statistics give no useful running means; give "
             "--norm=instance, which is the same in minibatches of one, or a larger --minibatch"))


def reconstruction_text(config: ConditionalConfig) -> str:
    """Return a few words on how generated photos are compared with real ones."""
    weight = config.weight_of_reconstruction()
    return (f"reconstruction {config.reconstruction}"
            + (f" (weight {weight:g})" if config.reconstruction != "none" else ""))


@dataclass(frozen=True)
class Pix2PixConfig(ConditionalConfig):
    """Options of the training of a generator that draws photos from maps.

    Sources: pix2pix is Isola et al. 2017; critics and reconstructions of maps are those of "Next
    steps for image synthesis using semantic segmentation" (2020).
    """

    presets: ClassVar = PRESETS
    weights: ClassVar = RECONSTRUCTIONS
    default_preset: ClassVar = "pix2pix"
    cells: ClassVar = "map, photo, generated photo"
    fixed: ClassVar = frozenset({"variant", "resolution", "critic", "generator", "blocks", "norm",
                                 "dropout", "g_fmaps", "d_fmaps", "d_strides", "scales",
                                 "spectral_norm"})

    variant: str = option("pix2pix", "photos from maps", choices=("pix2pix",))
    critic: str = option(
        "patch", "patch: D scores patches; semantic: it has one map of logits for every class, all "
        "with the same weight, and one for everything; capacity: as many maps without weights, "
        "for comparison", choices=CRITICS)
    reconstruction: str = option(
        "l1", "how generated photos are also compared with real ones: by pixels, by a segmentation "
        "network's maps, by VGG16's features, or not at all", choices=tuple(RECONSTRUCTIONS))
    reconstruction_weight: float | None = option(
        None, "weight of this comparison relative to the GAN loss (default: 100 for l1, 10 for "
        "semantic and vgg)", **WEIGHT)
    segmenter: str | None = option(
        None, "segmentation network (snapshot, run directory or run number) for "
        "--reconstruction=semantic, and to select the best snapshot by the mean IoU of its labels "
        "of generated photos", metavar="SPEC")
    lpips: str | None = option(
        None, "weights of VGG16 and LPIPS, as .npz, for --reconstruction=vgg and for lpips in "
        "--metrics (default: cache, pip)", metavar="PATH")
    metrics: str = option(
        "l1", "metrics of photos drawn from the validation split's maps, at every network "
        "snapshot, such as kid1k,lpips; the first one selects the best snapshot; with --segmenter "
        "the default begins with miou; 'none' for none", metavar="NAME,...")
    generator: str = option("unet", "unet: pix2pix's; resnet: CycleGAN's", choices=GENERATORS)
    blocks: int = option(9, "residual blocks of --generator=resnet", **BLOCKS)
    dropout: float = option(0.5, "dropout rate of the U-Net's three innermost blocks, also after "
                            "training, so that one map gives several photos; 0: none", low=0,
                            high=0.9)
    scales: int = option(1, "discriminators, each for pictures half the size of the previous one's",
                         low=1, high=3)
    spectral_norm: bool = option(False, "divide the discriminator's kernels by their spectral norm")
    kimg: float = option(80.0, "thousands of photos shown; the learning rate falls over the second "
                         "half", **KIMG)
    minibatch: int = option(1, "photos per step over all devices", **SIZE)
    jitter: float = option(round(286 / 256, 6), "enlarge photos and maps by this factor, and cut "
                           "out squares of the old size at random; 1: leave them unchanged", low=1,
                           high=2)
    mirror: bool = option(True, "flip half of the photos and their maps left to right")
    mirror_pairs: str | None = option(
        None, "classes to swap in flipped photos, such as l_eye:r_eye; 'none' for none (default: "
        "those whose names differ only in the side)", metavar="LEFT:RIGHT,...")
    tick_kimg: float = option(2.0, "length of a tick in kimg", above=0, high=KIMG["high"])

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> Self:
        """Return the preset `name` with {field: value} replaced. If not given, metrics follow from
        --segmenter, and dropout is 0 for a generator other than the U-Net."""
        chosen = {**cls.presets.get(name, {}), **overrides}
        derived = {}
        if chosen.get("segmenter"):
            derived["metrics"] = "miou,l1"
        if chosen.get("generator", "unet") != "unet":
            derived["dropout"] = 0.0
        return super().preset(name, {**derived, **overrides})

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) of every combination in which an option is idle."""
        default = type(self).__dataclass_fields__["blocks"].default
        return (
            (self.reconstruction == "semantic" and not self.segmenter,
             "--reconstruction=semantic: needs --segmenter, the network that compares"),
            (self.segmenter and self.reconstruction != "semantic"
             and "miou" not in self.metrics.split(","),
             "--segmenter: it is for --reconstruction=semantic, and for miou in --metrics"),
            (self.patience and self.metrics == "none",
             "--patience: needs --metrics to know when the training stops improving"),
            (self.lpips and self.reconstruction != "vgg"
             and "lpips" not in self.metrics.split(","),
             "--lpips: it is for --reconstruction=vgg, and for lpips in --metrics"),
            *super().refusals(),
            (self.generator != "resnet" and self.blocks != default,
             "--blocks: only --generator=resnet has them"),
            (self.generator == "resnet" and self.dropout,
             "--dropout: --generator=resnet has none"),
            (not self.mirror and self.mirror_pairs not in (None, "none"),
             "--mirror-pairs: --no-mirror flips no photos; leave one of them out"))
