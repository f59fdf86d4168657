"""The training schedule: a pure function from the number of images shown to what happens now.

The schedule also says which discriminator sees which channels in which stage. Style-GAN has one
critic on RGB, Style-C-GAN one on all channels, Style-C-GAN-2D both, taking turns (Korneliusson et
al. 2019, section 2).
"""

from dataclasses import dataclass
from math import floor, log2

from dnnlib.data.channels import NUM_COLOURS
from dnnlib.util import UserError
from training.config import TrainingConfig
from training.method_config import by_resolution

STAGES = ("rgb", "binary", "classes")


@dataclass(frozen=True)
class Critic:
    """A discriminator's role in one stage.

    Attributes:
        name: its network is D_<name>.
        channels: how many channels of every image it sees, from the first one on.
        grows_from: the critic of the previous stage whose weights it starts from.
        rgb_grad: scale of its gradient on G's colour channels.
    """

    name: str
    channels: int
    grows_from: str | None = None
    rgb_grad: float = 1.0


@dataclass(frozen=True)
class Stage:
    """What training does at one moment.

    Attributes:
        name: 'rgb', 'binary' or 'classes'.
        channels: channels of the images that G draws.
        critics: the critics, in the order in which they take turns.
        lod: level of detail, log2(final / current size), fractional while a size fades in.
        resolution: size of the images. fade: frac(lod), the weight of the coarser resolution.
        minibatch: images per step, over all devices.
        lrate: learning rate of G and D.
        tick_kimg: length of a tick in kimg.
    """

    name: str
    channels: int
    critics: tuple[Critic, ...]
    lod: float
    resolution: int
    fade: float
    minibatch: int
    lrate: float
    tick_kimg: float

    def critic(self, step: int) -> Critic:
        """Return the critic whose turn it is at a step."""
        return self.critics[step % len(self.critics)]

    @property
    def phase(self) -> tuple[str, int, bool]:
        """Return what changes with the stage, floor(lod) or ceil(lod): Adam restarts whenever it
        changes, as in the official code."""
        return self.name, self.resolution, self.fade > 0

    @property
    def is_comparable(self) -> bool:
        """Return whether images have the final size: scores at smaller sizes do not compare."""
        return self.lod == 0

    @property
    def scalars(self) -> dict[str, float]:
        """Return {name: number} for a tick to report."""
        return {"Progress/lod": self.lod, "Progress/resolution": self.resolution,
                "Progress/channels": self.channels, "Progress/lrate": self.lrate}

    @property
    def summary(self) -> str:
        """Return the same for a line of the log, with the same width in every tick."""
        return f"resolution {self.resolution:<4d} lod {self.lod:<5.2f}"


def stage_channels(stage_name: str, num_classes: int) -> int:
    """Return G's number of channels: the colours, plus one binary map or one map per class."""
    return NUM_COLOURS + {"rgb": 0, "binary": 1, "classes": num_classes}[stage_name]


def stage_critics(variant: str, stage_name: str, num_classes: int,
                  joint_rgb_grad: float = 1.0) -> tuple[Critic, ...]:
    """Return the critics of one stage, in the order in which they take turns.

    The RGB stage is the same for all variants, so one RGB training can start any of them.
    """
    image_critic = Critic("rgb", NUM_COLOURS, grows_from=None if stage_name == "rgb" else "rgb")
    if stage_name == "rgb":
        return (image_critic,)
    joint = Critic("joint", stage_channels(stage_name, num_classes),
                   grows_from="rgb" if stage_name == "binary" else "joint",
                   rgb_grad=joint_rgb_grad)
    return (image_critic, joint) if variant == "2d" else (joint,)


def variant_stages(variant: str) -> tuple[str, ...]:
    """Return the names of the stages that a variant goes through."""
    return STAGES[:1] if variant == "rgb" else STAGES


def level_of_detail(nimg: int, resolution: int, initial_resolution: int, hold_kimg: float,
                    fade_kimg: float) -> float:
    """Return lod after `nimg` images: log2(final / current size), fractional while fading.

    Source: Karras et al. 2018 (progressive growing).
    """
    kimg, phase_kimg = nimg / 1000, hold_kimg + fade_kimg
    if phase_kimg == 0:
        return 0.0
    phase = floor(kimg / phase_kimg)
    lod = log2(resolution) - log2(min(initial_resolution, resolution)) - phase
    if fade_kimg > 0:
        lod -= max(kimg - phase * phase_kimg - hold_kimg, 0) / fade_kimg
    return max(lod, 0.0)


def stage_ends(config: TrainingConfig, first_stage: str = "rgb",
               ended_nimg: tuple[int, ...] = ()) -> list[tuple[str, int]]:
    """Return [(stage name, nimg at its end)]; `ended_nimg` has the ends of finished stages."""
    names = variant_stages(config.variant)
    names = names[names.index(first_stage):]
    ends = list(ended_nimg[:len(names)])
    for name in names[len(ends):]:
        ends.append((ends[-1] if ends else 0) + round(getattr(config, f"{name}_kimg") * 1000))
    return list(zip(names, ends))


def training_schedule(config: TrainingConfig, num_classes: int, cur_nimg: int,
                      first_stage: str = "rgb", ended_nimg: tuple[int, ...] = ()) -> Stage:
    """Return the Stage at `cur_nimg`; past the end of the last stage, the last one continues.

    Args:
        config: with `resolution` set.
        cur_nimg: real images shown so far.
        first_stage: the stage that this training begins with, in which networks grow from
            `initial_resolution`. After a snapshot it is usually later than 'rgb', and networks
            have the snapshot's size.
        ended_nimg: nimg at which the finished stages ended, in order; a stage may end early.
    """
    ends = stage_ends(config, first_stage, ended_nimg)
    name = next((name for name, end in ends[len(ended_nimg):] if cur_nimg < end), ends[-1][0])
    lod = 0.0
    if name == first_stage:
        lod = level_of_detail(cur_nimg, config.resolution, config.initial_resolution,
                              config.hold_kimg, config.fade_kimg)
    return make_stage(config, num_classes, name, lod)


def make_stage(config: TrainingConfig, num_classes: int, name: str, lod: float = 0.0) -> Stage:
    """Return the Stage `name` at a level of detail."""
    resolution = config.resolution >> floor(lod)
    return Stage(
        name=name, channels=stage_channels(name, num_classes),
        critics=stage_critics(config.variant, name, num_classes, config.joint_rgb_grad),
        lod=lod, resolution=resolution, fade=lod - floor(lod),
        minibatch=by_resolution(config.minibatch, resolution),
        lrate=by_resolution(config.lrate, resolution),
        tick_kimg=by_resolution(config.tick_kimg, resolution))


def num_parts(config: TrainingConfig, resolution: int, minibatch: int, num_replicas: int) -> int:
    """Return in how many parts a device takes its share, given `config.minibatch_per_gpu`.

    Raises:
        UserError: the share does not divide into equal parts of whole minibatch-stddev groups.
    """
    share = minibatch // num_replicas
    if not config.minibatch_per_gpu:
        return 1
    size = min(int(by_resolution(config.minibatch_per_gpu, resolution)), share)
    group = min(config.mbstd_group_size, minibatch)
    if share % size or size % group:
        allowed = [n for n in range(group, share + 1, group) if share % n == 0]
        raise UserError(
            f"--minibatch-per-gpu: {size} at {resolution}x{resolution}: a device's {share} images "
            f"must divide into equal parts of whole minibatch-stddev groups of {group}; give one "
            f"of {', '.join(map(str, allowed))} there")
    return share // size
