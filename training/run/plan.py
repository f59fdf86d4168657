"""The plan of a training: its stretches; as text, also its ticks, files, memory and time."""

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate, groupby
from math import ceil

from dnnlib.data.dataset import DatasetInfo
from dnnlib.util import format_time
from training.config import TrainingConfig
from training.gan.schedule import Stage, num_parts, stage_ends, training_schedule

LOOKS = 2000  # samples of the schedule; a stretch shorter than their spacing is not found
_COLUMNS = ("from kimg", "to kimg", "stage", "resolution", "channels", "critics", "minibatch",
            "per device", "lrate", "ticks", "sec/kimg", "time")
# Variant 2d in its last stage at the final resolution; memory is counted as in docs/performance.md.
SIZES = (
    ("preset", "resolution", "snapshot", "state", "images at once", "fp32", "bf16",
     "most at once in 11 GB"),
    ("paper", "512", "400 MB", "979 MB", "4", "4.55 GB", "3.18 GB", "8 (fp32), 16 (bf16)"),
    ("paper-256", "256", "395 MB", "973 MB", "4", "2.79 GB", "2.08 GB", "16"),
    ("small-64", "64", "24.1 MB", "59.4 MB", "4", "0.16 GB", "0.12 GB", "16, the whole minibatch"),
    ("small-32", "32", "6.87 MB", "16.3 MB", "4", "0.04 GB", "0.03 GB", "16, the whole minibatch"),
    ("demo-32", "32", "3.36 MB", "8.41 MB", "4", "0.02 GB", "0.01 GB", "8, the whole minibatch"))

Stretch = tuple[int, int, Stage]  # first nimg, nimg after the last, the Stage at its end


def stretches(config: TrainingConfig, num_classes: int, first_stage: str = "rgb") -> list[Stretch]:
    """Return the stretches of a training, one for each phase, in order."""
    def stage_at(nimg: int) -> Stage:
        return training_schedule(config, num_classes, nimg, first_stage)

    return find_stretches(stage_at, 0, [end for _, end in stage_ends(config, first_stage)])


def find_stretches(stage_at: Callable[[int], Stage], begin: int, ends: list[int]) -> list[Stretch]:
    """Return the stretches of any schedule.

    Args:
        stage_at: function nimg -> Stage.
        begin: nimg at which the current stage began.
        ends: nimg at which the current stage and those after it end.
    """
    step = max(((ends[-1] if ends else begin) - begin) // LOOKS, 1)
    # Stages are searched one by one, so that even the shortest is found.
    found = []
    for low, high in zip([begin, *ends], ends):
        starts = [low] if high > low else []
        for nimg in range(low + step, high, step):
            phase = stage_at(nimg - step).phase
            if stage_at(nimg).phase != phase:
                starts.append(bisect_left(range(nimg), True, lo=nimg - step,
                                          key=lambda n, old=phase: stage_at(n).phase != old))
        # The Stage is that of the end: without --hold-kimg a size is fully grown for one image
        # only.
        found += [(start, end, stage_at(end - 1))
                  for start, end in zip(starts, [*starts[1:], high])]
    return found


def clipped(ahead: list[Stretch], cur_nimg: int) -> list[Stretch]:
    """Return the stretches, or parts of them, from `cur_nimg` on."""
    return [(max(start, cur_nimg), end, stage) for start, end, stage in ahead if end > cur_nimg]


def num_ticks(stretch: Stretch) -> float:
    """Return about how many ticks a stretch takes: a tick may end only where the loop reads the
    schedule."""
    start, end, stage = stretch
    return (end - start) / 1000 / stage.tick_kimg


def last_ticks(ahead: list[Stretch]) -> list[int]:
    """Return about the numbers of the ticks, from 1 on, with which the stages of a plan end."""
    stages = groupby(ahead, key=lambda stretch: stretch[2].name)
    # The end of a stage ends a tick; a sum of parts of ticks may be off by a rounding error.
    return list(accumulate(ceil(round(sum(map(num_ticks, parts)), 6)) for _, parts in stages))


def num_moments(ends: list[int], interval: int, also: int | None = None) -> int:
    """Return at how many ticks something is written every `interval` ticks, at the last ticks of
    stages, and at the tick `also`."""
    last = ends[-1] if ends else 0
    others = {tick for tick in [*ends, also] if tick and tick <= last and tick % interval}
    return last // interval + len(others)


# The plan as text

def describe_plan(config: TrainingConfig, dataset: DatasetInfo, first_stage: str, num_devices: int,
                  keep: int, rates: dict | None = None, seconds: float | None = None) -> str:
    """Return the whole plan: a line for every stretch, what would be written, memory.

    Args:
        num_devices: number of devices that share a minibatch.
        keep: number of training states to keep.
        rates: {(stage name, resolution): measured seconds per kimg}, or None.
        seconds: time of the whole training at these rates, including compilation.
    """
    ahead = stretches(config, len(dataset.classes), first_stage)
    ends = last_ticks(ahead)
    ticks = ends[-1] if ends else 0
    snapshots = num_moments(ends, config.network_ticks, also=1) + 1  # and network-final
    grids = num_moments(ends, config.image_ticks) + 1  # and the beginning
    rows = [_row(config, stretch, num_devices, rates) for stretch in ahead
            if stretch[1] - stretch[0] > 1]  # without --hold-kimg the first has one image only
    augmented = []
    if config.augment != "none":
        how = (f"adapted to a mean sign of {config.ada_target:g} of its scores of reals"
               if config.augment == "ada" else f"fixed at {config.augment.partition(':')[2]}")
        augmented = [f"discriminators see augmented images, the probability of each {how}"]
    labels = f", labels of {dataset.label_size} numbers" if dataset.label_size else ""
    return "\n".join([
        f"Style-GAN variant {config.variant} on {dataset.path} ({dataset.splits['train']} training "
        f"images, {len(dataset.classes)} classes{labels}) up to "
        f"{config.resolution}x{config.resolution}",
        *_aligned([_COLUMNS, *rows]), *augmented,
        f"{(ahead[-1][1] if ahead else 0) / 1000:g} kimg in all, in about {ticks} ticks",
        expected_time(seconds),
        f"would be written: about {snapshots} network snapshots and {grids} grids of fakes; {keep} "
        "training states are kept",
        "size of each file and memory of one GPU, in the last stage of variant 2d with 13 classes "
        "(60 take a tenth more); counted, not measured (libraries take some more):",
        *_aligned(SIZES), "nothing was written"])


def expected_time(seconds: float | None) -> str:
    """Return a line on how long a training will take; `seconds` is None if no steps were timed."""
    if seconds is None:
        return "time is not known: --measure times some steps on this machine"
    return (f"on this machine the training will take about {format_time(seconds)}, judging by "
            "steps timed just now; pictures and metrics take more")


def _row(config, stretch, num_devices, rates):
    """Return the cells of a stretch's row."""
    start, end, stage = stretch
    size, share = stage.resolution, stage.minibatch // num_devices
    parts = num_parts(config, size, stage.minibatch, num_devices)
    time = ("", "")
    if rates is not None:
        sec_per_kimg = rates[stage.name, size]
        time = f"{sec_per_kimg:.4g}", format_time((end - start) / 1000 * sec_per_kimg)
    return (f"{start / 1000:.1f}", f"{end / 1000:.1f}", stage.name,
            f"{size // 2} -> {size}" if stage.fade else f"{size}", f"{stage.channels}",
            ", ".join(critic.name for critic in stage.critics), f"{stage.minibatch}",
            f"{share}" if parts == 1 else f"{parts} x {share // parts}",
            f"{stage.lrate:g}", f"{ceil(num_ticks(stretch))}", *time)


def _aligned(rows):
    """Return rows of texts as lines, each column padded to its widest text."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows]
