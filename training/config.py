"""Everything that defines a training, as one frozen dataclass, and the presets: to and from JSON.

A table by resolution is a dict {resolution: value}; a resolution between two keys takes the nearest
smaller key's value, so {8: 128, 32: 64} means 128 at 8 and 16, 64 from 32 upwards.
"""

# ruff: noqa: RUF009 (`_option` makes dataclass fields)

import dataclasses
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from dnnlib.data.mirroring import NONE as NO_PAIRS
from dnnlib.util import UserError

VARIANTS = ("rgb", "c", "2d")
GROW_G = ("copy", "empty")
GROW_D = ("copy", "zero", "fresh")
# Names that training.loss and dnnlib.tflib.ops know; this module imports no TensorFlow.
D_LOSSES = ("logistic", "wgan", "hinge")
G_LOSSES = ("logistic_nonsaturating", "logistic_saturating", "wgan", "hinge")
NONLINEARITIES = ("lrelu", "relu")
MAPPING_LRMUL = 0.01
PRECISIONS = ("fp32", "bf16")
ADA_TARGET, ADA_KIMG = 0.6, 500.0  # Karras et al. 2020, sections 3.1 and 3.2


def by_resolution(table: dict[int, float], resolution: int) -> float:
    """Return the value of the largest key that is not above `resolution`, else of the smallest."""
    return table[max((key for key in table if key <= resolution), default=min(table))]


def num_fmaps(stage: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> int:
    """Return nf(stage) = min(int(fmap_base / 2^(stage * fmap_decay)), fmap_max) (ProGAN, table 2).
    """
    return min(int(fmap_base / 2 ** (stage * fmap_decay)), fmap_max)


def _option(default, text, **metadata):
    """Return a dataclass field with the help text of the command line and what is allowed.

    `metadata`: `choices`; or numbers `low` and `high`, both allowed, and `above`, itself not, of
    the value or of all values by resolution.
    """
    metadata["help"] = text
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# No training is longer, no network wider, no minibatch larger: what is above is a slip of the hand.
MAX_COUNT = 10**9
_KIMG, _COUNT = {"low": 0, "high": 10**6}, {"low": 1, "high": MAX_COUNT}
_SIZE, _WEIGHT, _SHARE = {"low": 1, "high": 2**20}, {"low": 0, "high": 10**6}, {"low": 0, "high": 1}


@dataclass(frozen=True)
class TrainingConfig:
    """One training. Lengths in kimg (thousands of real images shown), rates per update.

    Sources: the method is Korneliusson et al. 2019, section 4; what it leaves open is StyleGAN's
    official configuration (Karras et al. 2019, appendix C).
    """

    variant: str = _option("2d", "rgb = Style-GAN, c = Style-C-GAN, 2d = Style-C-GAN-2D",
                           choices=VARIANTS)
    data: str = _option("datasets/modanet", "data set made by dataset_tool.py", metavar="DIR")
    untagged: str | None = _option(
        None, "data set of extra photos without maps for the image critic", metavar="DIR")
    resolution: int | None = _option(
        None, "train up to this size (default: the data set's)", metavar="N")
    seed: int = _option(1000, "seed of weights, latents, noise and the order of photos", low=0,
                        high=2**31 - 1)

    fmap_base: int = _option(
        8192, "feature maps at resolution 2^r: fmap_base / 2^((r-1) fmap_decay), at most fmap_max",
        **_SIZE)
    fmap_decay: float = _option(1.0, "how fast feature maps become fewer with resolution", low=0,
                                high=16)
    fmap_max: int = _option(512, "most feature maps of any layer", **_SIZE)
    latent_size: int = _option(512, "length of z, of w and of the mapping network's layers",
                               **_SIZE)
    mapping_layers: int = _option(8, "depth of the mapping network; 0 passes z through", low=0,
                                  high=100)
    mapping_lrmul: float = _option(
        MAPPING_LRMUL, "learning rate of the mapping network, relative to the others", above=0,
        high=100)
    normalize_latents: bool = _option(True, "normalise z before the mapping network")
    use_styles: bool = _option(
        True, "a style in every layer of G; without them w enters by --no-const-input")
    use_noise: bool = _option(True, "noise in every layer of G")
    const_input: bool = _option(True, "G starts from a learned constant; else from a dense layer")
    use_pixel_norm: bool = _option(False, "pixel norm in every layer of G")
    use_instance_norm: bool = _option(True, "instance norm in every layer of G")
    nonlinearity: str = _option("lrelu", "activation of all networks", choices=NONLINEARITIES)
    use_wscale: bool = _option(
        True, "equalised learning rate; else He's initialisation and no scaling at run time")
    blur: bool = _option(True, "blur after upscaling in G and before downscaling in D")
    mbstd_group_size: int = _option(
        4, "images that D's minibatch stddev compares; 1 = without that layer", **_COUNT)
    mbstd_num_features: int = _option(1, "maps that minibatch stddev appends", **_SIZE)

    initial_resolution: int = _option(8, "resolution to start at")
    hold_kimg: float = _option(600.0, "kimg at each resolution before the next one fades in",
                               **_KIMG)
    fade_kimg: float = _option(600.0, "kimg of fading in a resolution", **_KIMG)
    rgb_kimg: float = _option(
        12000.0, "length of the RGB stage, growth in resolution included", **_KIMG)
    binary_kimg: float = _option(600.0, "length of the stage with one binary map", **_KIMG)
    classes_kimg: float = _option(4000.0, "length of the stage with one map per class", **_KIMG)
    minibatch: dict = _option(
        {4: 128, 32: 64, 64: 32, 128: 16},
        "images per step over all devices, by resolution: 8:128,32:64 or one number", **_SIZE)
    minibatch_per_gpu: dict = _option(
        {}, "most images that a device takes at once, by resolution; it adds up the gradients of "
        "more (default: all of its share at once)", **_SIZE)
    lrate: dict = _option({4: 0.001, 256: 0.0015, 512: 0.002}, "learning rate by resolution",
                          low=1e-8, high=1)
    precision: str = _option(
        "fp32", "type of activations and convolutions; weights, statistics, norms and losses are "
        "float32 whatever it is", choices=PRECISIONS)
    xla: bool = _option(False, "compile training steps with XLA, on one device only; random "
                       "draws then differ from those without it")
    minibatch_repeats: int = _option(4, "steps between two looks at the schedule", **_COUNT)

    d_loss: str = _option("logistic", "loss of D", choices=D_LOSSES)
    g_loss: str = _option("logistic_nonsaturating", "loss of G; wgan and hinge are the same, -D",
                          choices=G_LOSSES)
    r1_gamma: float = _option(10.0, "weight of the R1 penalty, on D's gradient at reals", **_WEIGHT)
    r1_interval: int = _option(
        1, "D steps from one R1 penalty to the next, which weighs as many times more", **_COUNT)
    r2_gamma: float = _option(0.0, "weight of the R2 penalty, on D's gradient at fakes", **_WEIGHT)
    wgan_lambda: float = _option(
        0.0, "weight of WGAN-GP's penalty, on D's gradient between reals and fakes; its authors: "
        "10, with --d-loss=wgan --g-loss=wgan --r1-gamma=0", **_WEIGHT)
    smoothing_kimg: float = _option(10.0, "half-life of Gs, the running average of G", **_KIMG)
    style_mixing_prob: float = _option(0.9, "share of minibatches with mixed styles", **_SHARE)
    dlatent_avg_beta: float = _option(0.995, "decay of the running mean of w", **_SHARE)
    map_noise: float = _option(
        0.01, "standard deviation of the noise on real segmentation maps", **_SHARE)
    mirror: bool = _option(True, "flip half of the real images and their maps left to right")
    mirror_pairs: str | None = _option(
        None, "classes that are swapped in flipped images, as l_eye:r_eye,l_arm:r_arm; 'none' for "
        "none (default: those whose names differ in the side alone)", metavar="LEFT:RIGHT,...")
    balance: float = _option(
        0.0, "how far the frequencies of the classes are evened out in what the joint critic sees "
        "in the stage of the classes: 0 as they are, 1 as alike as the photos allow",
        metavar="X", **_SHARE)
    augment: str = _option(
        "none", "augments what discriminators see: ada adapts the probability, fixed:P leaves it "
        "at P",
        metavar="{ada,fixed:P,none}")
    ada_target: float = _option(
        ADA_TARGET, "mean sign of D's scores of reals above which --augment=ada becomes stronger",
        low=-1, high=1)
    ada_kimg: float = _option(
        ADA_KIMG, "kimg in which the probability of --augment=ada can rise from 0 to 1", above=0,
        high=_KIMG["high"])
    grow_g: str = _option(
        "copy", "new maps of G at a channel growth: copies of an old channel, or empty",
        choices=GROW_G)
    grow_d: str = _option(
        "copy", "new inputs of critics at a channel growth: copies of an old one, zero, or fresh "
        "random weights", choices=GROW_D)
    joint_rgb_grad: float = _option(
        1.0, "scale of the joint critic's gradient on G's colour channels in 2d; 0 is the ablation",
        **_SHARE)

    tick_kimg: dict = _option(
        {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 30, 1024: 20},
        "length of a tick by resolution", above=0, high=_KIMG["high"])
    image_ticks: int = _option(1, "ticks between two grids of fakes", **_COUNT)
    network_ticks: int = _option(10, "ticks between two network snapshots and their evaluation",
                               **_COUNT)
    metrics: str = _option(
        "fid10k", "metrics on the validation split at every network snapshot; the first FID, or "
        "else KID, selects the best one; 'none' for none")
    patience: int = _option(
        0, "end a stage after this many evaluations without a better FID; 0 = never", low=0,
        high=MAX_COUNT)

    def __post_init__(self):
        """Raise UserError for a value outside its range or an option that another one idles."""
        for f in dataclasses.fields(self):
            problem = _problem(f, getattr(self, f.name))
            if problem:
                raise UserError(f"{as_option(f.name, getattr(self, f.name))}: {problem}")
        for refused, reason in _refusals(self):
            if refused:
                raise UserError(reason)

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainingConfig":
        """Return the config that `to_json` gave; keys of tables are strings in JSON files.

        Raises:
            UserError: a value is not allowed, or an option is unknown to this version.
        """
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"options that this version does not know: {', '.join(unknown)}")
        return cls(**{name: {int(key): v for key, v in value.items()}
                      if isinstance(value, dict) else value for name, value in values.items()})


def as_option(name: str, value: object) -> str:
    """Return a field's value as an argument: '--fmap-max=64', '--lrate=8:0.001', '--no-blur'."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={as_text(value)}"


def as_text(value: object) -> str:
    """Return a value as the command line takes it: '8:128,32:64' for a table by resolution."""
    if isinstance(value, dict):
        return ",".join(f"{key}:{number}" for key, number in value.items())
    return str(value)


def parse_augment(text: str) -> tuple[str, float]:
    """Return ('ada', 0), ('fixed', P) or ('none', 0) of a value of --augment.

    Raises:
        ValueError: it is none of them.
    """
    kind, _, p = text.partition(":")
    if kind in ("ada", "none") and text == kind:
        return kind, 0.0
    if kind != "fixed" or not 0 < float(p) <= 1:
        raise ValueError(text)
    return kind, float(p)


def _problem(f, value):
    """Return what was expected of field `f` where `value` is not allowed, else None."""
    meta = f.metadata
    if f.name == "augment":
        try:
            parse_augment(value)
        except ValueError:
            return "expected ada, none, or fixed:P with P above 0, up to 1"
    if "choices" in meta and value not in meta["choices"]:
        return f"expected one of {', '.join(meta['choices'])}"
    if value is None or isinstance(value, bool | str) or value == {} == f.default_factory():
        return None
    if f.name in ("resolution", "initial_resolution"):
        return None if _is_resolution(value) else "expected a power of two from 4 upwards"
    numbers = [value]
    if isinstance(value, dict):
        numbers = value.values()
        if not value or not all(map(_is_resolution, value)):
            return ("expected a number, or numbers by resolution (powers of two from 4 upwards), "
                    "such as 8:128,32:64")
    for number in numbers:
        if not isfinite(number):
            return "expected finite numbers"
        if "above" in meta and not meta["above"] < number <= meta["high"]:
            return f"expected a number above {meta['above']}, up to {meta['high']}"
        if "low" in meta and not meta["low"] <= number <= meta["high"]:
            return f"expected a number from {meta['low']} to {meta['high']}"
        if f.name in ("minibatch", "minibatch_per_gpu") and type(number) is not int:
            return "expected whole numbers"
    return None


def _is_resolution(value):
    return value >= 4 and not value & (value - 1)


def _refusals(c):
    """Return (whether it is so, the error) of every combination in which an option is idle."""
    return (
        (c.untagged and c.variant == "c",
         "--untagged: --variant=c has no critic on RGB alone that could see photos without maps; "
         "use --variant=2d (or rgb)"),
        (c.joint_rgb_grad != 1 and c.variant != "2d",
         "--joint-rgb-grad: only --variant=2d has an image critic to leave the colours to"),
        (not c.mirror and c.mirror_pairs not in (None, NO_PAIRS),
         "--mirror-pairs: --no-mirror flips no images; leave one of them out"),
        (c.balance and not c.classes_kimg,
         "--balance: --classes-kimg=0 leaves out the stage whose photos it would draw"),
        (c.patience and c.metrics == "none",
         "--patience: needs --metrics to tell when a stage stops improving"),
        ((c.ada_target, c.ada_kimg) != (ADA_TARGET, ADA_KIMG) and c.augment != "ada",
         "--ada-target, --ada-kimg: only --augment=ada adapts anything"),
        (c.augment == "ada" and c.d_loss == "wgan",
         "--augment=ada: the scores of --d-loss=wgan have no zero between reals and fakes, so that "
         "their signs say nothing; give --augment=fixed:P"),
        (c.r1_interval > 1 and not c.r1_gamma,
         "--r1-interval: --r1-gamma=0 leaves the R1 penalty out"),
        (not c.use_styles and c.const_input,
         "--no-use-styles: z reaches G through the styles or through the dense input; give "
         "--no-const-input too"),
        (not c.use_styles and c.style_mixing_prob,
         "--no-use-styles: there are no styles to mix; give --style-mixing-prob=0 too"),
        (c.mbstd_group_size == 1 and c.mbstd_num_features != 1,
         "--mbstd-num-features: --mbstd-group-size=1 leaves minibatch stddev out"),
        (not c.mapping_layers and c.mapping_lrmul != MAPPING_LRMUL,
         "--mapping-lrmul: --mapping-layers=0 leaves the mapping network out"))


# A preset lists what it changes. Its comment says what it is for, on what hardware and how long it
# takes.
PRESETS = {
    # The paper's models: ModaNet at 512x512 on four GPUs of 11 GB or more. The authors report one
    # to two weeks a model on 4 x GTX 1080 Ti; the stages' lengths are ours (the sources give none).
    "paper": {},
    # The same method at 256x256, for four GPUs of 8 GB or one of 24 GB. A quarter of the pixels,
    # and 6,000 kimg reach the full resolution: days where `paper` takes a week. Not run by us.
    "paper-256": dict(resolution=256, rgb_kimg=9000.0, binary_kimg=400.0, classes_kimg=3000.0,
                      lrate={4: 0.001, 256: 0.0015}),
    # One small GPU, or a patient CPU: recognisable figures at 64x64 from a few thousand photos.
    # Networks a quarter as wide as the paper's train at about 10 images/s at 64x64 on two CPU
    # cores: two days. R1's gamma follows the number of pixels from what worked at 32x32
    # (docs/results.md). Not run by us.
    "small-64": dict(resolution=64, fmap_base=2048, fmap_max=128, latent_size=128, hold_kimg=100.0,
                     fade_kimg=100.0, rgb_kimg=1000.0, binary_kimg=50.0, classes_kimg=450.0,
                     minibatch={4: 64, 32: 32, 64: 16}, r1_gamma=4.0, grow_d="zero",
                     tick_kimg={4: 20}, network_ticks=2, metrics="kid1k,fid1k"),
    # A few hundred photos of one's own at 32x32 in hours of two CPU cores, or one small GPU: the
    # networks and lengths that made docs/models/ccp-2d-32 of 699 photos (docs/results.md, where the
    # first stage had other rates). Not run by us in one piece.
    "small-32": dict(resolution=32, fmap_base=1024, fmap_max=64, latent_size=128, hold_kimg=20.0,
                     fade_kimg=20.0, rgb_kimg=320.0, binary_kimg=15.0, classes_kimg=165.0,
                     minibatch={4: 32, 32: 16}, lrate={4: 0.001, 32: 0.002}, r1_gamma=1.0,
                     grow_d="zero", smoothing_kimg=5.0, tick_kimg={4: 5}, network_ticks=4,
                     metrics="kid1k,fid1k"),
    # Colours and maps on two CPU cores in nine minutes, for drawn figures of few classes: small
    # minibatches, as so short a training needs many updates, a short average, and two thirds of it
    # for the maps, which begin empty and all at once. `make demo` runs it.
    "demo-32": dict(resolution=32, fmap_base=256, fmap_max=64, latent_size=64, mapping_layers=2,
                    hold_kimg=6.0, fade_kimg=4.0, rgb_kimg=24.0, binary_kimg=0.0,
                    classes_kimg=48.0, minibatch={4: 8}, lrate={4: 0.003}, r1_gamma=0.5,
                    r1_interval=2, grow_g="empty", grow_d="fresh", smoothing_kimg=2.0,
                    style_mixing_prob=0.2, tick_kimg={4: 4}, metrics="none"),
}
DEFAULT_PRESET = "paper"


def preset_config(name: str, overrides: dict[str, Any]) -> TrainingConfig:
    """Return the preset `name` with {field: value} on top; raise UserError for an unknown one."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return TrainingConfig(**{**PRESETS[name], **overrides})
