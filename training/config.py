"""The options that define a training of Style-GAN and its variants, and their presets."""

# ruff: noqa: RUF009 (`option` makes dataclass fields)

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from dnnlib.data.mirroring import NONE as NO_PAIRS
from training.gan.snapshot_score import SELECT_BY, selects_any
from training.method_config import (
    COUNT,
    KIMG,
    PRECISION,
    PRECISIONS,
    SHARE,
    SIZE,
    WEIGHT,
    MethodConfig,
    option,
)

VARIANTS = ("rgb", "c", "2d")
# Names that training.loss and dnnlib.tflib.ops know; this module imports no TensorFlow.
D_LOSSES = ("logistic", "wgan", "hinge")
G_LOSSES = ("logistic_nonsaturating", "logistic_saturating", "wgan", "hinge")
NONLINEARITIES = ("lrelu", "relu")
MAPPING_LRMUL = 0.01
ADA_TARGET, ADA_KIMG = 0.6, 500.0  # Karras et al. 2020, sections 3.1 and 3.2
# Fields of TrainingConfig that define the networks: all of them, G, D.
SHARED_OPTIONS = ("resolution", "fmap_base", "fmap_decay", "fmap_max", "nonlinearity", "use_wscale",
                  "blur")
G_OPTIONS = ("latent_size", "mapping_layers", "mapping_lrmul", "normalize_latents", "use_styles",
             "use_noise", "const_input", "use_pixel_norm", "use_instance_norm")
D_OPTIONS = ("mbstd_group_size", "mbstd_num_features")


def num_fmaps(stage: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> int:
    """Return nf(stage) = min(int(fmap_base / 2^(stage * fmap_decay)), fmap_max) (ProGAN, table 2).
    """
    return min(int(fmap_base / 2 ** (stage * fmap_decay)), fmap_max)


def parse_augment(text: str) -> tuple[str, float]:
    """Return ('ada', 0), ('fixed', P) or ('none', 0) for a value of --augment.

    Raises:
        ValueError: it is none of them.
    """
    kind, _, p = text.partition(":")
    if kind in ("ada", "none") and text == kind:
        return kind, 0.0
    if kind != "fixed" or not 0 < float(p) <= 1:
        raise ValueError(text)
    return kind, float(p)


# A preset lists the options that it changes. Its comment says what it is for, on which hardware,
# and how long it takes.
PRESETS = {
    # The paper's models: ModaNet at 512x512 on four GPUs of 11 GB or more. The authors report one
    # to two weeks per model on 4 x GTX 1080 Ti. The stages' lengths are ours (the sources give
    # none).
    "paper": {},
    # The same method at 256x256, for four GPUs of 8 GB or one of 24 GB. With a quarter of the
    # pixels, and the full resolution after 6,000 kimg, it takes days where `paper` takes a week.
    # Not run by us.
    "paper-256": dict(resolution=256, rgb_kimg=9000.0, binary_kimg=400.0, classes_kimg=3000.0,
                      lrate={4: 0.001, 256: 0.0015}),
    # One small GPU, or a patient CPU: recognisable figures at 64x64 from a few thousand photos.
    # Networks a quarter as wide as the paper's train at about 10 images/s at 64x64 on two CPU
    # cores: two days. Critics see maps through a tanh; otherwise they judge little but how soft
    # the maps are (docs/results.md). Not run by us in one piece.
    "small-64": dict(resolution=64, fmap_base=2048, fmap_max=128, latent_size=128, hold_kimg=100.0,
                     fade_kimg=100.0, rgb_kimg=1000.0, binary_kimg=0.0, classes_kimg=500.0,
                     minibatch={4: 64, 32: 32, 64: 16}, r1_gamma=1.0, grow_g="empty",
                     grow_d="fresh", map_contrast=15.0, tick_kimg={4: 20}, network_ticks=2,
                     metrics="kid1k,fid1k"),
    # A few hundred photos of your own at 32x32, in hours on two CPU cores or one small GPU. Here
    # and in small-64, maps start empty and all at once: if they start as copies, they take long to
    # appear (docs/results.md, with such networks). Not run by us in one piece.
    "small-32": dict(resolution=32, fmap_base=1024, fmap_max=64, latent_size=128, hold_kimg=20.0,
                     fade_kimg=20.0, rgb_kimg=320.0, binary_kimg=0.0, classes_kimg=180.0,
                     minibatch={4: 32, 32: 16}, lrate={4: 0.001, 32: 0.002}, r1_gamma=1.0,
                     grow_g="empty", grow_d="fresh", map_contrast=15.0, smoothing_kimg=5.0,
                     tick_kimg={4: 5}, network_ticks=4, metrics="kid1k,fid1k"),
    # Colours and maps in minutes on two CPU cores, for drawn figures with few classes. Minibatches
    # are small, since so short a training needs many updates; the average is short; two thirds of
    # the training are for the maps, which start empty and all at once. `make demo` runs it.
    "demo-32": dict(resolution=32, fmap_base=256, fmap_max=64, latent_size=64, mapping_layers=2,
                    hold_kimg=6.0, fade_kimg=4.0, rgb_kimg=24.0, binary_kimg=0.0,
                    classes_kimg=48.0, minibatch={4: 8}, lrate={4: 0.003}, r1_gamma=0.5,
                    r1_interval=2, grow_g="empty", grow_d="fresh", map_contrast=15.0,
                    smoothing_kimg=2.0, style_mixing_prob=0.2, tick_kimg={4: 4}, metrics="none"),
}


@dataclass(frozen=True)
class TrainingConfig(MethodConfig):
    """Options of one training; lengths in kimg (thousands of real images shown), rates per update.

    Sources: the method follows Korneliusson et al. 2019, section 4; what that leaves open follows
    StyleGAN's official configuration (Karras et al. 2019, appendix C).
    """

    presets: ClassVar = PRESETS
    default_preset: ClassVar = "paper"
    cells: ClassVar = "photo beside map where there are maps, of Gs without truncation"
    fixed: ClassVar = frozenset({"variant", "initial_resolution", "hold_kimg", "fade_kimg",
                                 *SHARED_OPTIONS, *G_OPTIONS, *D_OPTIONS})

    variant: str = option("2d", "rgb = Style-GAN, c = Style-C-GAN, 2d = Style-C-GAN-2D; "
                          "segmenter = a segmentation network, decoder = maps from a trained "
                          "generator's features, cyclegan = one texture exchanged for another, "
                          "pix2pix = photos from maps, pose = people in other poses; see "
                          "--variant=segmenter --help and so on",
                          choices=VARIANTS)
    untagged: str | None = option(
        None, "data set of extra photos without maps for the image critic", metavar="DIR")
    fmap_base: int = option(
        8192, "feature maps at resolution 2^r: fmap_base / 2^((r-1) fmap_decay), at most fmap_max",
        **SIZE)
    fmap_decay: float = option(1.0, "how fast the number of feature maps falls as resolution grows",
                               low=0, high=16)
    fmap_max: int = option(512, "largest number of feature maps in any layer", **SIZE)
    latent_size: int = option(512, "length of z, of w and of the mapping network's layers",
                              **SIZE)
    mapping_layers: int = option(8, "depth of the mapping network; 0 passes z through", low=0,
                                 high=100)
    mapping_lrmul: float = option(
        MAPPING_LRMUL, "learning rate of the mapping network, relative to the others", above=0,
        high=100)
    normalize_latents: bool = option(True, "normalise z before the mapping network")
    use_styles: bool = option(
        True, "a style in every layer of G; without styles, w enters G through --no-const-input")
    use_noise: bool = option(True, "noise in every layer of G")
    const_input: bool = option(
        True, "G starts from a learned constant; otherwise from a dense layer of w")
    use_pixel_norm: bool = option(False, "pixel norm in every layer of G")
    use_instance_norm: bool = option(True, "instance norm in every layer of G")
    nonlinearity: str = option("lrelu", "activation of all networks", choices=NONLINEARITIES)
    use_wscale: bool = option(
        True, "equalised learning rate; otherwise He initialisation and no scaling at run time")
    blur: bool = option(True, "blur after upscaling in G and before downscaling in D")
    mbstd_group_size: int = option(
        4, "number of images that D's minibatch stddev compares; 1 = no such layer", **COUNT)
    mbstd_num_features: int = option(1, "number of maps that minibatch stddev appends", **SIZE)

    initial_resolution: int = option(8, "resolution to start at")
    hold_kimg: float = option(600.0, "kimg at each resolution before the next one fades in",
                              **KIMG)
    fade_kimg: float = option(600.0, "kimg in which a resolution fades in", **KIMG)
    rgb_kimg: float = option(
        12000.0, "length in kimg of the RGB stage, including growth in resolution", **KIMG)
    binary_kimg: float = option(600.0, "length in kimg of the stage with one binary map", **KIMG)
    classes_kimg: float = option(
        4000.0, "length in kimg of the stage with one map per class", **KIMG)
    minibatch: dict = option(
        {4: 128, 32: 64, 64: 32, 128: 16},
        "images per step over all devices, by resolution: 8:128,32:64 or one number", **SIZE)
    minibatch_per_gpu: dict = option(
        {}, "most images that a device processes at once, by resolution; a larger share is taken "
        "in parts whose gradients are added up (default: the whole share at once)", **SIZE)
    lrate: dict = option({4: 0.001, 256: 0.0015, 512: 0.002}, "learning rate by resolution",
                         low=1e-8, high=1)
    precision: str = option("fp32", PRECISION, choices=PRECISIONS)
    xla: bool = option(False, "compile training steps with XLA, on one device only; random "
                       "draws then differ from those without it")
    d_loss: str = option("logistic", "loss of D", choices=D_LOSSES)
    g_loss: str = option("logistic_nonsaturating", "loss of G; wgan and hinge are the same, -D",
                         choices=G_LOSSES)
    r1_gamma: float = option(10.0, "weight of the R1 penalty, on D's gradient at reals", **WEIGHT)
    r1_interval: int = option(
        1, "apply the R1 penalty once in this many D steps, with this many times the weight",
        **COUNT)
    r2_gamma: float = option(0.0, "weight of the R2 penalty, on D's gradient at fakes", **WEIGHT)
    wgan_lambda: float = option(
        0.0, "weight of WGAN-GP's penalty, on D's gradient between reals and fakes; its authors "
        "use 10, with --d-loss=wgan --g-loss=wgan --r1-gamma=0", **WEIGHT)
    smoothing_kimg: float = option(10.0, "half-life of Gs, the running average of G", **KIMG)
    style_mixing_prob: float = option(0.9, "share of minibatches with mixed styles", **SHARE)
    dlatent_avg_beta: float = option(0.995, "decay of the running mean of w", **SHARE)
    map_noise: float = option(
        0.01, "standard deviation of the noise on real segmentation maps", **SHARE)
    map_contrast: float = option(
        0.0, "steepness of the tanh through which discriminators see maps, such as 15: they then "
        "judge shapes, and not how close generated maps are to two values; 0 = no tanh",
        low=0, high=100)
    mirror: bool = option(True, "flip half of the real images and their maps left to right")
    mirror_pairs: str | None = option(
        None, "classes to swap in flipped images, such as l_eye:r_eye,l_arm:r_arm; 'none' for "
        "none (default: those whose names differ only in the side)", metavar="LEFT:RIGHT,...")
    balance: float = option(
        0.0, "how far to even out the classes' frequencies in the photos that the joint critic "
        "sees in the classes stage: 0 = not at all, 1 = as far as the photos allow",
        metavar="X", **SHARE)
    augment: str = option(
        "none", "augment what discriminators see: ada adapts the probability, fixed:P keeps it "
        "at P", metavar="{ada,fixed:P,none}", parse=parse_augment,
        expected="expected ada, none, or fixed:P with P above 0, up to 1")
    ada_target: float = option(
        ADA_TARGET, "mean sign of D's scores of reals above which --augment=ada raises its "
        "probability", low=-1, high=1)
    ada_kimg: float = option(
        ADA_KIMG, "kimg in which the probability of --augment=ada can rise from 0 to 1, counted "
        "for each discriminator", above=0, high=KIMG["high"])
    grow_g: str = option(
        "copy", "how new maps of G start: as copies of an old channel, or empty",
        choices=("copy", "empty"))
    grow_d: str = option(
        "copy", "weights that new input channels of critics start with: copies of an old "
        "channel's, zero, or fresh random ones", choices=("copy", "zero", "fresh"))
    joint_rgb_grad: float = option(
        1.0, "scale of the joint critic's gradient on G's colour channels in --variant=2d; 0 is "
        "the ablation", **SHARE)

    tick_kimg: dict = option(
        {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 30, 1024: 20},
        "length of a tick in kimg, by resolution", above=0, high=KIMG["high"])
    metrics: str = option(
        "fid10k", "metrics on the validation split at every network snapshot; 'none' for none")
    select_by: str = option(
        "fid", "score that selects the best snapshot: fid = the first FID, or KID if there is "
        "none; kid; pair = KID of the photo beside its map; labels = FID or KID divided by the "
        "agreement with --segmenter", choices=SELECT_BY)
    segmenter: str | None = option(
        None, "segmentation network for --select-by=labels, and for labelsNk in --metrics",
        metavar="RUN_OR_FILE")

    def refusals(self) -> Iterable[tuple[Any, str]]:
        """Return (whether it is so, the error) for each combination that makes an option useless.
        """
        of_maps = [name for name in self.metrics.split(",")
                   if name.endswith("_pair") or name.startswith("labels")]
        return (
            (self.untagged and self.variant == "c",
             "--untagged: --variant=c has no critic on RGB alone that could see photos without "
             "maps; use --variant=2d (or rgb)"),
            (self.joint_rgb_grad != 1 and self.variant != "2d",
             "--joint-rgb-grad: only --variant=2d has an image critic to leave the colours to"),
            (not self.mirror and self.mirror_pairs not in (None, NO_PAIRS),
             "--mirror-pairs: --no-mirror flips no images; leave one of them out"),
            (self.balance and not self.classes_kimg,
             "--balance: --classes-kimg=0 leaves out the stage whose photos it would draw"),
            (self.select_by != "fid" and self.metrics == "none",
             "--select-by: needs --metrics, since it is measured together with them"),
            (self.select_by in ("pair", "labels") and self.variant == "rgb",
             f"--select-by={self.select_by}: --variant=rgb draws no maps"),
            (self.select_by == "labels" and not self.segmenter,
             "--select-by=labels: needs --segmenter, a network that train.py --variant=segmenter "
             "trained on real photos"),
            (self.segmenter and self.select_by != "labels" and "labels" not in self.metrics,
             "--segmenter: it is for --select-by=labels and for labelsNk in --metrics"),
            (self.patience and self.metrics == "none",
             "--patience: needs --metrics to know when a stage stops improving"),
            (self.patience and not selects_any(self.metrics, self.select_by),
             f"--patience: no metric of --metrics={self.metrics} says whether a stage improves; "
             "add one of fidNk or kidNk"),
            (self.variant == "rgb" and of_maps,
             f"--metrics: --variant=rgb draws no maps for {', '.join(of_maps)}"),
            ((self.ada_target, self.ada_kimg) != (ADA_TARGET, ADA_KIMG) and self.augment != "ada",
             "--ada-target, --ada-kimg: only --augment=ada adapts anything"),
            (self.augment == "ada" and self.d_loss == "wgan",
             "--augment=ada: the scores of --d-loss=wgan have no zero between reals and fakes, so "
             "their signs mean nothing; give --augment=fixed:P"),
            (self.r1_interval > 1 and not self.r1_gamma,
             "--r1-interval: --r1-gamma=0 leaves the R1 penalty out"),
            (not self.use_styles and self.const_input,
             "--no-use-styles: z reaches G through the styles or through the dense input; give "
             "--no-const-input too"),
            (not self.use_styles and self.style_mixing_prob,
             "--no-use-styles: there are no styles to mix; give --style-mixing-prob=0 too"),
            (self.mbstd_group_size == 1 and self.mbstd_num_features != 1,
             "--mbstd-num-features: --mbstd-group-size=1 leaves minibatch stddev out"),
            (not self.mapping_layers and self.mapping_lrmul != MAPPING_LRMUL,
             "--mapping-lrmul: --mapping-layers=0 leaves the mapping network out"))
