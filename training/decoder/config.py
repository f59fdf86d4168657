"""The options of a decoder's training, and their presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from training.method_config import KIMG, SHARE, SIZE, WEIGHT, MethodConfig, option

# How each decoder is trained. conv: SGD with momentum 0.9, learning rate 0.01, weight decay 1e-3,
# as in "Teaching GAN to generate per-pixel annotation"; linear: Adam with 1e-3, later a tenth of
# it, as in the linear probe's paper; mlp: Adam with 1e-3 and 64 pixels a step, as in DatasetGAN.
DECODERS = {"conv": dict(lrate=0.01, weight_decay=1e-3, kimg=8.0),
            "linear": dict(lrate=1e-3, kimg=16.0),
            "mlp": dict(lrate=1e-3, pixels=64, kimg=16.0)}
DEFAULT_DECODER = "conv"
LINEAR_DROP = 0.4  # share of the training after which linear's learning rate is a tenth: 20 of 50
POLY_POWER = 0.9  # conv's learning rate falls with this power of the share of the training left

# A preset lists the options that it changes. Its comment says what it is for. Every tick is
# evaluated, since few pictures are held back; the best of the 10 or 20 snapshots is recorded.
PRESETS = {
    # Twenty pictures of up to 128x128: minutes on two CPU cores.
    "small": dict(network_ticks=1),
    # 256x256 and more: two pictures in memory at a time.
    "large": dict(minibatch=2, network_ticks=1),
    # Pictures of 16x16 and tests: seconds.
    "tiny": dict(kimg=0.4, tick_kimg=0.2, network_ticks=1),
}


@dataclass(frozen=True)
class DecoderConfig(MethodConfig):
    """Options of the training of a decoder of label maps from a generator's features.

    `data` is the folder of labelled pictures: --labels on the command line.
    """

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "small"
    cells: ClassVar = "picture, its labels, the decoder's map"
    fixed: ClassVar = frozenset({"variant", "resolution", "decoder"})

    variant: str = option("decoder", "decoder of label maps from a trained generator's features",
                          choices=("decoder",))
    data: str = option("", "folder of labelled pictures, written by generate.py --for-labelling or "
                       "--project", metavar="DIR", flag="labels")
    resolution: int | None = option(
        None, "resolution of the maps; must be the generator's, which is the default", metavar="N")
    decoder: str = option(DEFAULT_DECODER, "linear: a 1x1 convolution per layer, summed; conv: 64 "
                          "normalised maps per layer, summed coarse to fine; mlp: an ensemble of "
                          "10 small networks on each pixel's features", choices=tuple(DECODERS))
    kimg: float = option(8.0, "thousands of pictures shown, each time with new noise; 16 for "
                         "linear and mlp", **KIMG)
    minibatch: int = option(4, "pictures per step over all devices", **SIZE)
    pixels: int = option(0, "pixels per step that mlp learns from, 64 with --decoder=mlp; the "
                         "other decoders learn from all", low=0, high=SIZE["high"])
    lrate: float = option(0.01, "learning rate at the beginning; 0.001 for linear and mlp",
                          low=1e-8, high=10)
    weight_decay: float = option(0.0, "weight decay of the kernels, for conv alone", **WEIGHT)
    held_back: float = option(0.1, "share of the pictures that selects the best snapshot and is "
                              "not trained on, if that makes at least two", metavar="SHARE",
                              **SHARE)
    tick_kimg: float = option(0.8, "length of a tick in kimg", above=0, high=KIMG["high"])

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> Self:
        """Return the decoder's own values, overridden by the preset's, then by {field: value}."""
        chosen = DECODERS.get(overrides.get("decoder", DEFAULT_DECODER), {})
        return super().preset(name, {**chosen, **cls.presets.get(name, {}), **overrides})

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) for each combination that makes an option useless.
        """
        is_mlp = self.decoder == "mlp"
        return (
            (self.weight_decay and self.decoder != "conv",
             f"--weight-decay: {self.decoder} is trained without; it is for --decoder=conv"),
            (self.pixels and not is_mlp,
             f"--pixels: {self.decoder} learns from all pixels; it is for --decoder=mlp"),
            (is_mlp and (not self.pixels or self.pixels % self.minibatch),
             f"--pixels={self.pixels}: each picture must give equally many: expected a multiple of "
             f"--minibatch={self.minibatch}"),
            (self.held_back == 1, "--held-back=1: leaves no picture to learn from"))
