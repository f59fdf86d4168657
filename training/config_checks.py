"""What must fit together before a training starts; each check raises UserError."""

import dataclasses
from math import ceil

from dnnlib.data import mirroring
from dnnlib.suggestions import command, training_options
from dnnlib.tflib.distribute import replica_rows
from dnnlib.util import UserError
from training.accumulation import num_parts
from training.config import by_resolution
from training.dataset import check_label_sizes, open_dataset, read_labels
from training.forms import num_fmaps
from training.gan_step import check_xla


def fit_to_dataset(config, dataset, num_replicas, first_stage="rgb", taken=()):
    """The config with its resolution set; everything that would fail later is checked now.

    taken: names of the options that come from a snapshot.
    """
    resolution = config.resolution or dataset.resolution
    if resolution > dataset.resolution and "resolution" in taken:
        raise UserError(f"--init-from: its networks are of {resolution}x{resolution}, "
                        f"{dataset.path} goes up to {dataset.resolution}; make a larger one with "
                        f"dataset_tool.py --resolution={resolution}")
    if resolution > dataset.resolution:
        raise UserError(f"--resolution={resolution}: {dataset.path} goes up to "
                        f"{dataset.resolution}; give --resolution={dataset.resolution}, or make a "
                        f"larger one with dataset_tool.py --resolution={resolution}; what fits "
                        f"this one: {fitting_command(dataset)}")
    if config.variant != "rgb" and not dataset.classes:
        raise UserError(f"--variant={config.variant}: {dataset.path} has no segmentation maps; "
                        "only --variant=rgb can train on it: "
                        f"{fitting_command(dataset)}")
    config = dataclasses.replace(config, resolution=resolution,
                                 mirror_pairs=swapped_classes(config, dataset))
    check_networks(config)
    check_growth(config, first_stage)
    check_untagged(config)
    check_labels(config, dataset)
    check_minibatches(config, num_replicas)
    check_xla(config, num_replicas)
    return config


def fitting_command(dataset):
    """A command of train.py that fits a data set's size and channels."""
    variant = [] if dataset.classes else ["--variant=rgb"]
    return command("train.py", *variant, f"--data={dataset.path}",
                   *training_options(dataset.splits["train"], dataset.resolution))


def swapped_classes(config, dataset):
    """The --mirror-pairs of a training, spelt out: of one without class maps or flips none."""
    if config.variant == "rgb" or not config.mirror:
        return mirroring.NONE
    return mirroring.pairs_text(mirroring.parse_pairs(config.mirror_pairs, dataset.classes))


def check_idle(given, variant, first_stage):
    """Options of stages that this training does not go through are refused, not ignored.

    given: names of the TrainingConfig fields that the user has set.
    """
    idle = set()
    if variant == "rgb":
        idle = {"binary_kimg", "classes_kimg", "grow_d", "map_noise", "mirror_pairs"}
    reason = "--variant=rgb has no stages with maps"
    if first_stage != "rgb":
        idle |= {"rgb_kimg", "initial_resolution", "hold_kimg", "fade_kimg"}
        reason = f"from this snapshot on it begins with stage {first_stage}"
    if first_stage == "classes":
        idle.add("binary_kimg")
    for name in sorted(idle & set(given)):
        raise UserError(f"--{name.replace('_', '-')}: without effect: {reason}; leave it out")


def check_networks(config):
    """At least one feature map everywhere, and a size to start from."""
    finest = config.resolution.bit_length() - 2
    if num_fmaps(finest, config.fmap_base, config.fmap_decay, config.fmap_max) < 1:
        least = ceil(2 ** (finest * config.fmap_decay))
        raise UserError(f"--fmap-base={config.fmap_base}: no feature map is left at "
                        f"{config.resolution}x{config.resolution}; give at least {least}")
    features = config.mbstd_num_features
    coarsest = num_fmaps(1, config.fmap_base, config.fmap_decay, config.fmap_max)
    if coarsest % features:
        raise UserError(f"--mbstd-num-features={features}: must divide the {coarsest} feature maps "
                        "at 4x4")
    if config.initial_resolution > config.resolution:
        raise UserError(f"--initial-resolution={config.initial_resolution} is above the target, "
                        f"{config.resolution}; give --initial-resolution={config.resolution}")


def check_growth(config, first_stage):
    """The channels grow at full resolution: the RGB stage must have reached it."""
    octaves = (config.resolution // config.initial_resolution).bit_length() - 1
    needed = octaves * (config.hold_kimg + config.fade_kimg)
    if first_stage == "rgb" and config.variant != "rgb" and config.rgb_kimg < needed:
        raise UserError(f"--rgb-kimg={config.rgb_kimg:g}: growing from {config.initial_resolution} "
                        f"to {config.resolution} takes {needed:g} kimg (--hold-kimg and "
                        f"--fade-kimg at each of {octaves} resolutions)")


def check_untagged(config):
    """The extra photos serve up to the full resolution."""
    if not config.untagged:
        return
    extra = open_dataset(config.untagged)
    if extra.resolution < config.resolution:
        raise UserError(f"--untagged: {extra.path} goes up to {extra.resolution}, this training "
                        f"to {config.resolution}; make a larger one with dataset_tool.py "
                        f"--resolution={config.resolution}")
    if not extra.splits.get("train"):
        raise UserError(f"--untagged: {extra.path} has no training images")


def check_labels(config, dataset):
    """The labels can be read, and extra photos have labels of the same size."""
    read_labels(dataset.path, "train")
    check_label_sizes([dataset, *([open_dataset(config.untagged)] if config.untagged else [])])


def check_minibatches(config, num_replicas):
    """Every minibatch can be shared by the devices, in whole groups, at whatever resolution, and
    every share be taken in parts."""
    resolution = config.initial_resolution
    while resolution <= config.resolution:
        minibatch = by_resolution(config.minibatch, resolution)
        replica_rows(minibatch, num_replicas, 0, config.mbstd_group_size)
        num_parts(config, resolution, minibatch, num_replicas)
        resolution *= 2
