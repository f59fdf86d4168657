"""What a training would do, in words: its stages, resolutions, minibatches and learning rates."""

from training.schedule import stage_ends, training_schedule

STEP_NIMG = 1000


def describe_plan(config, dataset, first_stage="rgb"):
    """The whole schedule as text, a line for every stretch in which only the fade changes."""
    lines = [f"Style-GAN variant {config.variant} on {dataset.path} "
             f"({dataset.splits['train']} training images, {len(dataset.classes)} classes) "
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
    stretches = []
    for nimg in range(0, max(total, 1), STEP_NIMG):
        stage = training_schedule(config, num_classes, nimg, first_stage)
        if stretches and stretches[-1][2].optimizer_phase == stage.optimizer_phase:
            stretches[-1][1] = min(nimg + STEP_NIMG, total)
        else:
            stretches.append([nimg, min(nimg + STEP_NIMG, total), stage])
    return stretches
