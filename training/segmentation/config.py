"""The options of a segmentation network's training, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from training.method_config import COUNT, KIMG, SHARE, SIZE, WEIGHT, MethodConfig, option

ARCHITECTURES = ("deeplab", "unet")
BACKBONES = ("efficientnet-lite0", "resnet50")
CLASS_WEIGHTS = ("none", "balanced")
MAX_UNET_FMAPS = 256  # 125 million parameters in all
_DEEPLAB_ALONE = ("backbone", "output_stride", "imagenet")

# A preset lists the options that it changes. Its comment says what it is for.
PRESETS = {
    # DeepLabV3+ over ResNet-50 as the twenty-labels paper trains it to evaluate pairs: SGD,
    # momentum 0.9, learning rate 0.01, weight decay 1e-4. One GPU of 11 GB for 512x512. Not run by
    # us.
    "deeplab": dict(backbone="resnet50"),
    # A few hundred photos at 64x64 in minutes on two CPU cores, starting from ImageNet's weights.
    "small": dict(kimg=20.0, minibatch=8, imagenet=True, output_stride=8, tick_kimg=1.0,
                  network_ticks=2),
    # Drawn figures, pictures of 32x32 and tests: seconds to minutes on two CPU cores.
    "tiny": dict(architecture="unet", kimg=16.0, minibatch=16, lrate=0.05, tick_kimg=2.0,
                 network_ticks=1),
}


@dataclass(frozen=True)
class SegmenterConfig(MethodConfig):
    """Options of the training of a segmentation network.

    Sources: DeepLabV3+ is Chen et al. 2018; the optimizer's parameters are those with which
    "Teaching GAN to generate per-pixel annotation" (2020) trains it. What they leave open is our
    choice.
    """

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "small"
    cells: ClassVar = "photo, its map, the network's map"
    fixed: ClassVar = frozenset({"variant", "resolution", "architecture", "backbone",
                                 "output_stride", "unet_fmaps", "imagenet"})

    variant: str = option("segmenter", "segmentation network", choices=("segmenter",))
    data2: str | None = option(
        None, "second source of labelled pictures: a data set, or a folder of pairs written by "
        "generate.py --num (--data may be one as well)", metavar="DIR")
    mix: float = option(0.5, "share of --data2 in every minibatch; 1 = use --data for validation "
                        "only", metavar="SHARE", **SHARE)
    num_images: int | None = option(
        None, "train with this many of --data's training pictures, drawn by the seed (default: "
        "all)", **COUNT)
    architecture: str = option("deeplab", "deeplab = DeepLabV3+, unet = a small U-Net for small "
                               "pictures", choices=ARCHITECTURES)
    backbone: str = option("efficientnet-lite0", "backbone of DeepLabV3+", choices=BACKBONES)
    output_stride: int = option(16, "stride of the deepest features, in pixels of the picture",
                                choices=(8, 16))
    unet_fmaps: int = option(16, "feature maps of the U-Net's first level", low=1,
                             high=MAX_UNET_FMAPS)
    imagenet: bool = option(False, "start from weights that were trained on ImageNet, fetched once "
                            "(only for efficientnet-lite0)")
    kimg: float = option(160.0, "thousands of pictures shown", **KIMG)
    minibatch: int = option(16, "pictures per step over all devices", **SIZE)
    lrate: float = option(0.01, "learning rate at the beginning", low=1e-8, high=10)
    poly_power: float = option(0.9, "the learning rate falls with this power of the share of the "
                               "training that is left", low=0, high=10)
    momentum: float = option(0.9, "momentum of gradient descent", low=0, high=0.9999)
    weight_decay: float = option(1e-4, "weight decay of convolution kernels", **WEIGHT)
    class_weights: str = option(
        "none", "balanced: the weight of a pixel is the median of the classes' frequencies divided "
        "by that of its class, at most ten", choices=CLASS_WEIGHTS)
    mirror: bool = option(True, "flip half of the pictures and their maps left to right")
    mirror_pairs: str | None = option(
        None, "classes to swap in flipped pictures, such as l_eye:r_eye; 'none' for none "
        "(default: those whose names differ only in the side)", metavar="LEFT:RIGHT,...")
    zoom: float = option(1.25, "enlarge or reduce pictures at random by a factor of up to this, "
                         "and move them within the room that leaves", low=1, high=8)
    tick_kimg: float = option(4.0, "length of a tick in kimg", above=0, high=KIMG["high"])

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> Self:
        """Return a preset with {field: value} replaced, without options that these make useless."""
        chosen = {**cls.presets.get(name, {}), **overrides}
        idle = set(_DEEPLAB_ALONE) if chosen.get("architecture") == "unet" else set()
        if chosen.get("backbone") == "resnet50":
            idle.add("imagenet")
        defaults = {key: cls.__dataclass_fields__[key].default for key in idle - overrides.keys()}
        return super().preset(name, {**overrides, **defaults})

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) for each combination that makes an option useless.
        """
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
