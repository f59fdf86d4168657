"""The training schedule: a pure function from the number of images shown to what happens now."""

from dataclasses import dataclass
from math import floor, log2

from training.config import by_resolution
from training.critics import Critic, stage_channels, stage_critics, variant_stages


@dataclass(frozen=True)
class Stage:
    """What training does at one moment."""

    name: str
    channels: int
    critics: tuple[Critic, ...]
    lod: float
    resolution: int
    fade: float
    minibatch: int
    lrate: float
    tick_kimg: float

    @property
    def octaves(self):
        """floor(lod): how many times the images are smaller than the final ones."""
        return floor(self.lod)

    @property
    def optimizer_phase(self):
        """Adam starts afresh whenever this changes: stage, floor(lod) or ceil(lod) (official)."""
        return self.name, self.resolution, self.fade > 0


def level_of_detail(nimg, resolution, initial_resolution, hold_kimg, fade_kimg):
    """lod after `nimg` images: log2(final / current size), fractional while fading.

    Source: Karras et al. 2018 (progressive growing).
    """
    kimg = nimg / 1000
    phase_kimg = hold_kimg + fade_kimg
    lod = log2(resolution) - log2(min(initial_resolution, resolution))
    if phase_kimg > 0:
        phase = floor(kimg / phase_kimg)
        lod -= phase
        if fade_kimg > 0:
            lod -= max(kimg - phase * phase_kimg - hold_kimg, 0) / fade_kimg
    else:
        lod = 0
    return max(lod, 0.0)


def stage_ends(config, first_stage="rgb", ended_nimg=()):
    """[(stage name, nimg at which it ends)]; `ended_nimg` are the ends of stages already left."""
    names = variant_stages(config.variant)
    names = names[names.index(first_stage):]
    ends, nimg = [], 0
    for i, name in enumerate(names):
        planned = nimg + round(getattr(config, f"{name}_kimg") * 1000)
        nimg = ended_nimg[i] if i < len(ended_nimg) else planned
        ends.append((name, nimg))
    return ends


def training_schedule(config, num_classes, cur_nimg, first_stage="rgb", ended_nimg=()):
    """The Stage at `cur_nimg`.

    Args:
        config: TrainingConfig with `resolution` set.
        first_stage: the stage this training begins with (after a snapshot, later than 'rgb').
        ended_nimg: tuple of nimg at which stages ended so far, in order; a stage may end early.

    Past the end of the last stage the last stage goes on.
    """
    ends = stage_ends(config, first_stage, ended_nimg)
    name = next((name for name, end in ends[len(ended_nimg):] if cur_nimg < end), ends[-1][0])
    lod = 0.0
    if name == "rgb":
        lod = level_of_detail(cur_nimg, config.resolution, config.initial_resolution,
                              config.hold_kimg, config.fade_kimg)
    return make_stage(config, num_classes, name, lod)


def make_stage(config, num_classes, name, lod=0.0):
    """The Stage `name` at a level of detail."""
    resolution = config.resolution >> floor(lod)
    return Stage(
        name=name, channels=stage_channels(name, num_classes),
        critics=stage_critics(config.variant, name, num_classes, config.joint_rgb_grad),
        lod=lod, resolution=resolution, fade=lod - floor(lod),
        minibatch=by_resolution(config.minibatch, resolution),
        lrate=by_resolution(config.lrate, resolution),
        tick_kimg=by_resolution(config.tick_kimg, resolution))
