"""What a training will do: its stretches and ticks, and as text with what it will take."""

from dataclasses import dataclass
from math import ceil

from dnnlib.util import format_time
from training.config import by_resolution
from training.operations import matmul_rate, parameters, turn_memory, turn_operations
from training.run.grids import grid_bytes
from training.schedule import stage_ends, training_schedule

LOOKS = 2000  # at the schedule; a stretch shorter than one of them would not be seen
FLOAT, SLOTS = 4, 8  # bytes of a stored number, of its two moments in Adam
_COLUMNS = ("from kimg", "to kimg", "stage", "resolution", "channels", "critics", "minibatch",
            "per device", "lrate", "ticks", "memory", "time")


def stretches(config, num_classes, first_stage="rgb", ended_nimg=()):
    """[(first nimg, nimg after the last, Stage)]: stretches of one optimizer phase, in each of
    which only the fade changes; from where the stage at hand began.

    Args: those of `training.schedule.training_schedule`.
    """
    def look(nimg):
        return training_schedule(config, num_classes, nimg, first_stage, ended_nimg)

    begin = ended_nimg[-1] if ended_nimg else 0
    ends = [end for _, end in stage_ends(config, first_stage, ended_nimg)[len(ended_nimg):]]
    step = max(((ends[-1] if ends else begin) - begin) // LOOKS, 1)
    # Stages are looked at one by one, so that the shortest is seen.
    found = []
    for low, high in zip([begin, *ends], ends):
        starts = [low] if high > low else []
        for nimg in range(low + step, high, step):
            if look(nimg).optimizer_phase != look(nimg - step).optimizer_phase:
                starts.append(_first_change(look, nimg - step, nimg))
        found += [(start, end, look(start)) for start, end in zip(starts, [*starts[1:], high])]
    return found


def _first_change(look, low, high):
    """The first nimg of (low, high] at which another phase than low's has begun."""
    phase = look(low).optimizer_phase
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if look(middle).optimizer_phase == phase else (low, middle)
    return high


def clipped(ahead, cur_nimg):
    """The stretches, or parts of them, from `cur_nimg` on."""
    return [(max(start, cur_nimg), end, stage) for start, end, stage in ahead if end > cur_nimg]


@dataclass(frozen=True)
class Tick:
    """A tick to come: where it ends, in which Stage, what it draws and saves."""

    nimg: int
    stage: object
    draws: bool
    saves_network: bool


def simulate_ticks(config, ahead, tick=0, tick_nimg=0):
    """Yield every Tick of the stretches `ahead`, as the training loop makes them.

    Args:
        tick: number of ticks so far. tick_nimg: where the tick at hand began.

    The loop looks at the schedule every `minibatch_repeats` turns: ticks and stages end at looks,
    and a stage begins where the one before really ended.
    """
    late = 0
    nimg = ahead[0][0] if ahead else 0
    for i, (_, end, stage) in enumerate(ahead):
        end += late
        step = stage.minibatch * config.minibatch_repeats
        ends_stage = i + 1 == len(ahead) or ahead[i + 1][2].name != stage.name
        while nimg < end:
            tick_looks = max(ceil((tick_nimg + stage.tick_kimg * 1000 - nimg) / step), 1)
            looks = min(tick_looks, ceil((end - nimg) / step))
            nimg += looks * step
            stage_is_over = ends_stage and nimg >= end
            if looks < tick_looks and not stage_is_over:
                break
            tick, tick_nimg = tick + 1, nimg
            yield Tick(nimg, stage, stage_is_over or tick % config.image_ticks == 0,
                       stage_is_over or tick == 1 or tick % config.network_ticks == 0)
        if ends_stage:
            late += nimg - end


def describe_plan(config, dataset, first_stage, num_devices, rate, keep):
    """The whole plan as text: a line for every stretch, then what would be written, and what the
    estimates are made from.

    Args:
        num_devices: that share a minibatch.
        rate: (multiply-adds per second of one device, what they were measured on).
        keep: number of training states kept.
    """
    ahead = stretches(config, len(dataset.classes), first_stage)
    ticks = list(simulate_ticks(config, ahead))
    rows = [_row(config, part, ticks, num_devices, rate[0]) for part in ahead]
    labels = f", labels of {dataset.label_size} numbers" if dataset.label_size else ""
    total = ahead[-1][1] if ahead else 0
    seconds = sum(_seconds(config, part, num_devices, rate[0]) for part in ahead)
    return "\n".join([
        f"Style-GAN variant {config.variant} on {dataset.path} ({dataset.splits['train']} training "
        f"images, {len(dataset.classes)} classes{labels}) up to "
        f"{config.resolution}x{config.resolution}",
        *_aligned([_COLUMNS, *rows]),
        f"{total / 1000:g} kimg in all, in {len(ticks)} ticks and at least {format_time(seconds)}",
        *_disk_lines(config, ahead, ticks, keep),
        "memory is an estimate of one device's peak while training: weights, Adam's moments, "
        f"gradients and activations ({config.precision}) are counted, what libraries keep is not",
        f"time is a lower bound: the turns' multiply-adds at {rate[0] / 1e9:,.0f} billion a "
        f"second, the rate of matrix products measured just now on {rate[1]}"
        + (f", shared by {num_devices} devices without loss" if num_devices > 1 else "")
        + "; turns reach a part of it, and drawing, evaluating and compiling come on top",
        "nothing was written"])


def measured_rate(device, config):
    """(multiply-adds per second of matrix products in the training's precision, the device's name),
    measured in a second.

    device: 'gpu' or 'cpu'; where there is no GPU the CPU is measured, and the name says so.
    """
    import tensorflow as tf

    if device == "gpu" and tf.config.list_physical_devices("GPU"):
        place, name = "GPU:0", "the first GPU here"
    else:
        place = "CPU:0"
        name = "this machine's CPU" + (" (it has no GPU)" if device == "gpu" else "")
    with tf.device(place):
        return matmul_rate(config.precision), name


def _row(config, part, ticks, num_devices, rate):
    """The line of a stretch, cell by cell."""
    start, end, stage = part
    size = stage.resolution
    per_device = rows_at_once(config, stage, num_devices)
    in_parts = per_device * num_devices < stage.minibatch
    memory = max(turn_memory(config, critic, stage, per_device, config.precision, in_parts)
                 for critic in stage.critics)
    return (f"{start / 1000:.1f}", f"{end / 1000:.1f}", stage.name,
            f"{size // 2} -> {size}" if stage.fade else f"{size}", f"{stage.channels}",
            ", ".join(critic.name for critic in stage.critics), f"{stage.minibatch}",
            _per_device(stage, num_devices, per_device), f"{stage.lrate:g}",
            f"{sum(tick.stage is stage for tick in ticks)}", _bytes(memory),
            format_time(_seconds(config, part, num_devices, rate)))


def rows_at_once(config, stage, num_devices):
    """Images that go through the networks at once on one device."""
    share = stage.minibatch // num_devices
    if not config.minibatch_per_gpu:
        return share
    return min(share, int(by_resolution(config.minibatch_per_gpu, stage.resolution)))


def _per_device(stage, num_devices, at_once):
    share = stage.minibatch // num_devices
    return f"{share}" if at_once == share else f"{share // at_once} x {at_once}"


def _seconds(config, part, num_devices, rate):
    """Of a stretch, if nothing but its multiply-adds took time."""
    start, end, stage = part
    operations = [turn_operations(config, critic, stage) for critic in stage.critics]
    return (end - start) * sum(operations) / len(operations) / rate / num_devices


def _disk_lines(config, ahead, ticks, keep):
    """What the run's files will take."""
    if not ahead:
        return []
    snapshots = [snapshot_bytes(config, tick.stage) for tick in ticks if tick.saves_network]
    last = ahead[-1][2]
    snapshots.append(snapshot_bytes(config, last))  # network-final
    states = keep * state_bytes(config, last)
    drawn = [ahead[0][2], *(tick.stage for tick in ticks if tick.draws)]
    grids = sum(grid_bytes(stage) for stage in drawn)
    return [f"would be written: {len(snapshots)} network snapshots ({_bytes(sum(snapshots))}), "
            f"{keep} training states kept ({_bytes(states)}), {len(drawn)} grids of fakes (less "
            f"than {_bytes(grids)}): at most {_bytes(sum(snapshots) + states + grids)}"]


def snapshot_bytes(config, stage):
    """A network snapshot's size: G, its average and every critic, float32, without the header."""
    sizes = parameters(config, stage.channels)
    return FLOAT * (2 * (sizes["G"] + sizes["G_fixed"]) + _critics_size(config, stage))


def state_bytes(config, stage):
    """A training state's size: a snapshot's networks and Adam's moments."""
    trained = parameters(config, stage.channels)["G"] + _critics_size(config, stage)
    return snapshot_bytes(config, stage) + SLOTS * trained


def _critics_size(config, stage):
    return sum(parameters(config, critic.channels)["D"] for critic in stage.critics)


def _bytes(count):
    """A number of bytes in words: 3.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _aligned(rows):
    """Rows of texts as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows]
