"""Check what must fit together before a training starts; each check raises UserError."""

import dataclasses
from collections.abc import Iterable
from math import ceil

from dnnlib.cli import IdleRule
from dnnlib.data import mirroring
from dnnlib.data.dataset import DatasetInfo, check_label_sizes, open_dataset, read_labels
from dnnlib.suggestions import command, training_options
from dnnlib.tflib.distribute import replica_rows
from dnnlib.util import UserError
from training.config import TrainingConfig, num_fmaps
from training.gan.schedule import num_parts
from training.method_config import by_resolution
from training.run.job import chosen_pairs


def fit_to_dataset(config: TrainingConfig, dataset: DatasetInfo, num_replicas: int,
                   first_stage: str = "rgb", taken: Iterable[str] = ()) -> TrainingConfig:
    """Return the config with its resolution set; check now whatever would fail later.

    Args:
        num_replicas: number of devices of all workers together.
        taken: names of the options that come from a snapshot.

    Raises:
        UserError: the options do not fit the data set, the devices or each other.
    """
    resolution = config.resolution or dataset.resolution
    if resolution > dataset.resolution:
        remedy = f"make a larger one with dataset_tool.py --resolution={resolution}"
        if "resolution" in taken:
            raise UserError(f"--init-from: its networks are of {resolution}x{resolution}, "
                            f"{dataset.path} goes up to {dataset.resolution}; {remedy}")
        raise UserError(f"--resolution={resolution}: {dataset.path} goes up to "
                        f"{dataset.resolution}; give --resolution={dataset.resolution}, or "
                        f"{remedy}; what fits this one: {fitting_command(dataset)}")
    if config.variant != "rgb" and not dataset.classes:
        raise UserError(f"--variant={config.variant}: {dataset.path} has no segmentation maps; "
                        f"only --variant=rgb can train on it: {fitting_command(dataset)}")
    if config.balance and len(dataset.classes) < 2:
        raise UserError(f"--balance: {dataset.path} has one class, and nothing to balance it with")
    pairs = mirroring.NONE if config.variant == "rgb" else chosen_pairs(config, dataset.classes)
    config = dataclasses.replace(config, resolution=resolution, mirror_pairs=pairs)
    check_networks(config)
    # The first stage has to reach the full resolution, at which channels grow.
    growths = (resolution // config.initial_resolution).bit_length() - 1
    needed = growths * (config.hold_kimg + config.fade_kimg)
    length = getattr(config, f"{first_stage}_kimg")
    if config.variant != "rgb" and length < needed:
        raise UserError(f"--{first_stage}-kimg={length:g}: growing from "
                        f"{config.initial_resolution} to {resolution} takes {needed:g} kimg "
                        f"(--hold-kimg and --fade-kimg at each of {growths} resolutions)")
    check_reals(config, dataset)
    check_minibatches(config, num_replicas)
    if config.xla and num_replicas > 1:
        raise UserError(f"--xla: compiles a step for one device, not for {num_replicas}; leave it "
                        "out, or give --gpus=1")
    return config


def fitting_command(dataset: DatasetInfo) -> str:
    """Return a command of train.py that fits a data set's size and channels."""
    variant = [] if dataset.classes else ["--variant=rgb"]
    return command("train.py", *variant, f"--data={dataset.path}",
                   *training_options(dataset.splits["train"], dataset.resolution))


def idle_rules(variant: str, first_stage: str, snapshot_stage: str | None = None,
               grows: bool = False) -> list[IdleRule]:
    """Return the rules that refuse options of stages that a training does not go through.

    Args:
        snapshot_stage: stage of the snapshot that the training begins from; None without one.
        grows: whether the networks of that snapshot are smaller than this training's.
    """
    begins = f"from this snapshot on it begins with stage {first_stage}"
    return [
        IdleRule(["rgb_kimg", "initial_resolution"], first_stage != "rgb", begins),
        IdleRule(["hold_kimg", "fade_kimg"], first_stage != "rgb" and not grows, begins),
        IdleRule(["binary_kimg"], first_stage == "classes", begins),
        IdleRule(["grow_g", "grow_d"], snapshot_stage == "classes",
                 "the networks of this snapshot have all of their maps already"),
        IdleRule(["binary_kimg", "classes_kimg", "grow_g", "grow_d", "map_noise", "map_contrast",
                  "mirror_pairs", "balance"], variant == "rgb",
                 "--variant=rgb has no stages with maps")]


def check_networks(config: TrainingConfig) -> None:
    """Check that every layer has a feature map, and that growth begins at or below the target."""
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


def check_reals(config: TrainingConfig, dataset: DatasetInfo) -> None:
    """Check that labels can be read, and that the photos of --untagged fit those of --data."""
    read_labels(dataset.path, "train")
    if not config.untagged:
        return
    extra = open_dataset(config.untagged)
    if extra.resolution < config.resolution:
        raise UserError(f"--untagged: {extra.path} goes up to {extra.resolution}, this training "
                        f"to {config.resolution}; make a larger one with dataset_tool.py "
                        f"--resolution={config.resolution}")
    if not extra.splits.get("train"):
        raise UserError(f"--untagged: {extra.path} has no training images")
    check_label_sizes([dataset, extra])


def check_minibatches(config: TrainingConfig, num_replicas: int) -> None:
    """Check that devices can share the minibatch of every resolution, and take it in parts."""
    resolution = config.initial_resolution
    while resolution <= config.resolution:
        minibatch = by_resolution(config.minibatch, resolution)
        replica_rows(minibatch, num_replicas, 0, config.mbstd_group_size)
        num_parts(config, resolution, minibatch, num_replicas)
        resolution *= 2
