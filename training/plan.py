"""What a training would do, in words: its stages, resolutions, minibatches and learning rates."""

from training.schedule import stage_ends, training_schedule

LOOKS = 2000  # at the schedule; a stretch shorter than one of them would not be seen


def describe_plan(config, dataset, first_stage="rgb"):
    """The whole schedule as text, a line for every stretch in which only the fade changes."""
    lines = [f"Style-GAN variant {config.variant} on {dataset.path} "
             f"({dataset.splits['train']} training images, {len(dataset.classes)} classes"
             f"{f', labels of {dataset.label_size} numbers' if dataset.label_size else ''}) "
             f"up to {config.resolution}x{config.resolution}",
             "    from kimg  to kimg  stage    resolution        channels  critics       minibatch"
             "  lrate"]
    total = stage_ends(config, first_stage)[-1][1]
    for start, end, stage in _stretches(config, len(dataset.classes), first_stage, total):
        size = (f"{stage.resolution}" if not stage.fade
                else f"{stage.resolution // 2} -> {stage.resolution}")
        critics = ", ".join(critic.name for critic in stage.critics)
        lines.append(f"    {start / 1000:>9.1f} {end / 1000:>8.1f}  {stage.name:<8s} {size:<17s} "
                     f"{stage.channels:<9d} {critics:<13s} {stage.minibatch:<10d} {stage.lrate:g}")
    lines.append(f"{total / 1000:g} kimg in all; nothing was written")
    return "\n".join(lines)


def _stretches(config, num_classes, first_stage, total):
    """[(first nimg, nimg after the last, Stage)] of stretches of one optimizer phase."""
    def look(nimg):
        return training_schedule(config, num_classes, nimg, first_stage)

    step = max(total // LOOKS, 1)
    starts = [0]
    for nimg in range(step, max(total, 1), step):
        if look(nimg).optimizer_phase != look(nimg - step).optimizer_phase:
            starts.append(_first_change(look, nimg - step, nimg))
    return [(start, end, look(start)) for start, end in zip(starts, [*starts[1:], total])]


def _first_change(look, low, high):
    """The first nimg of (low, high] at which another phase than low's has begun."""
    phase = look(low).optimizer_phase
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if look(middle).optimizer_phase == phase else (low, middle)
    return high
