"""The options of a segmentation network's training, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from training.method_config import COUNT, KIMG, SHARE, SIZE, WEIGHT, MethodConfig, option

ARCHITECTURES = ("deeplab", "unet")
BACKBONES = ("efficientnet-lite0", "resnet50")
CLASS_WEIGHTS = ("none", "balanced")
MAX_UNET_FMAPS = 256  # 125 million numbers in all
_DEEPLAB_ALONE = ("backbone", "output_stride", "imagenet")

# A preset lists what it changes. Its comment says what it is for.
PRESETS = {
    # DeepLabV3+ over ResNet-50 as the twenty-labels paper trains it to judge pairs: SGD, momentum
    # 0.9, learning rate 0.01, weight decay 1e-4. One GPU of 11 GB for 512x512. Not run by us.
    "deeplab": dict(backbone="resnet50"),
    # A few hundred photos at 64x64 in minutes of two CPU cores, ImageNet's weights to begin with.
    "small": dict(kimg=20.0, minibatch=8, imagenet=True, output_stride=8, tick_kimg=1.0,
                  network_ticks=2),
    # Drawn figures, pictures of 32x32 and tests: seconds to minutes of two CPU cores.
    "tiny": dict(architecture="unet", kimg=16.0, minibatch=16, lrate=0.05, tick_kimg=2.0,
                 network_ticks=1),
}


@dataclass(frozen=True)
class SegmenterConfig(MethodConfig):
    """A training of a segmentation network.

    Sources: DeepLabV3+ is Chen et al. 2018; the optimizer's numbers are those with which "Teaching
    GAN to generate per-pixel annotation" (2020) trains it. What they leave open is ours.
    """

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "small"
    cells: ClassVar = "photo, its map, the network's map"
    fixed: ClassVar = frozenset({"variant", "resolution", "architecture", "backbone",
                                 "output_stride", "unet_fmaps", "imagenet"})

    variant: str = option("segmenter", "segmentation network", choices=("segmenter",))
    data2: str | None = option(
        None, "second source of labelled pictures: a data set, or a folder of pairs that "
        "generate.py --num wrote (--data may be one as well)", metavar="DIR")
    mix: float = option(0.5, "share of --data2 in every minibatch; 1 leaves --data to validation",
                        metavar="SHARE", **SHARE)
    num_images: int | None = option(
        None, "train with so many of --data's training pictures, drawn by the seed (default: all)",
        **COUNT)
    architecture: str = option("deeplab", "deeplab = DeepLabV3+, unet = a small U-Net for small "
                               "pictures", choices=ARCHITECTURES)
    backbone: str = option("efficientnet-lite0", "of DeepLabV3+", choices=BACKBONES)
    output_stride: int = option(16, "pixels of the picture to one of the deepest features",
                                choices=(8, 16))
    unet_fmaps: int = option(16, "feature maps of the U-Net's first level", low=1,
                             high=MAX_UNET_FMAPS)
    imagenet: bool = option(False, "begin with weights that were trained on ImageNet, fetched once "
                            "(efficientnet-lite0 alone)")
    kimg: float = option(160.0, "thousands of pictures shown", **KIMG)
    minibatch: int = option(16, "pictures per step over all devices", **SIZE)
    lrate: float = option(0.01, "learning rate at the beginning", low=1e-8, high=10)
    poly_power: float = option(0.9, "the learning rate is this power of the share of the training "
                               "that is left", low=0, high=10)
    momentum: float = option(0.9, "of gradient descent", low=0, high=0.9999)
    weight_decay: float = option(1e-4, "of the kernels of convolutions", **WEIGHT)
    class_weights: str = option(
        "none", "balanced: a pixel weighs the median of the classes' frequencies over its class's, "
        "at most ten", choices=CLASS_WEIGHTS)
    mirror: bool = option(True, "flip half of the pictures and their maps left to right")
    mirror_pairs: str | None = option(
        None, "classes that are swapped in flipped pictures, as l_eye:r_eye; 'none' for none "
        "(default: those whose names differ in the side alone)", metavar="LEFT:RIGHT,...")
    zoom: float = option(1.25, "pictures are enlarged or reduced by a factor of up to this, and "
                         "moved within what that leaves", low=1, high=8)
    tick_kimg: float = option(4.0, "length of a tick", above=0, high=KIMG["high"])

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> Self:
        """Return a preset with {field: value} on top, without what these make idle."""
        chosen = {**cls.presets.get(name, {}), **overrides}
        idle = set(_DEEPLAB_ALONE) if chosen.get("architecture") == "unet" else set()
        if chosen.get("backbone") == "resnet50":
            idle.add("imagenet")
        defaults = {key: cls.__dataclass_fields__[key].default for key in idle - overrides.keys()}
        return super().preset(name, {**overrides, **defaults})

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) of every combination in which an option is idle."""
        defaults = {name: type(self).__dataclass_fields__[name].default for name in (
            "mix", *_DEEPLAB_ALONE, "unet_fmaps")}
        changed = {name for name, value in defaults.items() if getattr(self, name) != value}
        unet = self.architecture == "unet"
        return (
            (not unet and self.minibatch == 1, "--minibatch=1: the pooled features' batch norm has "
             "a single value then; 2 at least"),
            ("mix" in changed and not self.data2, "--mix: there is no --data2 to mix with"),
            (self.data2 and not self.mix, "--mix=0: leaves --data2 out; leave both options out"),
            (self.num_images and self.data2 and self.mix == 1,
             "--num-images: --mix=1 trains with none of --data"),
            *((unet and name in changed, f"--{name.replace('_', '-')}: the U-Net has none")
              for name in _DEEPLAB_ALONE),
            (not unet and "unet_fmaps" in changed, "--unet-fmaps: only --architecture=unet has it"),
            (self.imagenet and self.backbone == "resnet50",
             "--imagenet: weights are known for --backbone=efficientnet-lite0 alone"),
            (not self.mirror and self.mirror_pairs not in (None, "none"),
             "--mirror-pairs: --no-mirror flips no pictures; leave one of them out"))
