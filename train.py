#!/usr/bin/env python3
"""Train Style-GAN, Style-C-GAN or Style-C-GAN-2D."""

import dataclasses
import os

from dnnlib import cli
from dnnlib.cluster import find_workers
from dnnlib.util import UserError
from training.config import by_resolution
from training.run.options import given_options, parse_training_options

EXAMPLES = """\
  python train.py --variant=2d --gpus=4
  python train.py --variant=rgb --preset=small-64 --data=datasets/mine --device=cpu
  python train.py --run=3                # continue run 00003 with its own options
  python train.py --variant=2d --init-from=results/00000-rgb-modanet --untagged=datasets/more-photos
  python train.py --variant=2d --gpus=4 --workers=host0:2222,host1:2222 --worker-index=0
"""


def main(argv):
    """Train a network, or print the plan of it. Returns the exit status."""
    options = parse_training_options(argv, __doc__, EXAMPLES)
    given = given_options(options)
    workers, index = find_workers(options.workers, options.worker_index,
                                  os.environ.get("TF_CONFIG"))
    if options.measure and workers:
        raise UserError("--measure: times the devices of one machine; leave it out with several "
                        "workers")
    # TensorFlow is loaded here, so that --help and wrong options answer at once.
    import tensorflow as tf

    from dnnlib.data.dataset import open_dataset
    from dnnlib.tflib.distribute import create_strategy, worker_session
    from metrics.evaluation import training_metrics
    from metrics.metric_base import SPLIT, reals_of
    from training.init_from import check_start, first_stage_after, with_networks_of
    from training.run import launch
    from training.run.config_checks import fit_to_dataset, idle_rules
    from training.snapshots import find_snapshot, read_header

    # One trace for every critic and resolution is meant; TensorFlow takes them for an accident.
    tf.get_logger().setLevel("ERROR")
    config = launch.choose_config(options, given)
    training_metrics(config.metrics, options.inception)  # raises if it cannot compute one
    # The networks to begin with: fresh ones, or those of a snapshot.
    origin, header, first_stage, taken = None, None, "rgb", {}
    if options.init_from:
        origin = find_snapshot(options.init_from, options.results)
        header = read_header(origin)
        config, taken = with_networks_of(header, config, given)
        first_stage = first_stage_after(header, config)
    cli.refuse_idle(given, idle_rules(config.variant, first_stage,
                                      header and header["stage"]))
    # What fits the data set.
    dataset = open_dataset(config.data)
    num_replicas = options.gpus * len(workers or [0])
    if "metrics" not in given and not options.continues:
        metrics = launch.fitting_metrics(config.metrics, dataset)
        config = dataclasses.replace(config, metrics=metrics)
    config = fit_to_dataset(config, dataset, num_replicas, first_stage, taken)
    if header:
        check_start(header, config, dataset.classes, dataset.label_size)
    needs_validation = SPLIT in reals_of(training_metrics(config.metrics))
    notes = launch.start_notes(config, dataset, options, taken, needs_validation)
    if options.dry_run:
        launch.print_plan(config, dataset, first_stage, num_replicas, options, notes)
        return 0
    facts = launch.worker_facts(config, dataset, options, header)
    strategy = create_strategy(options.device, options.gpus, workers, index, facts)
    with worker_session(strategy):
        return train(config, dataset, strategy, options, origin, notes)


def train(config, dataset, strategy, options, origin, notes):
    """Make or continue a run, and train it to the end of its schedule. Returns the exit status.

    Args:
        config: TrainingConfig with `resolution` set. dataset: DatasetInfo of config.data.
        strategy: the devices. options: of the command line.
        origin: path of the snapshot to begin with, or None. notes: lines that the log begins with.
    """
    import tensorflow as tf

    from dnnlib.tflib.distribute import is_chief
    from metrics.evaluation import training_evaluation, training_metrics
    from training.run import launch
    from training.run.signals import end_if_stuck
    from training.stylegan import StyleGan
    from training.training_loop import Training

    with launch.open_run(strategy, config, dataset, options) as (run_dir, log):
        for line in notes:
            log.info(line)
        evaluate = training_evaluation(
            training_metrics(config.metrics), dataset, resolution=config.resolution,
            minibatch=by_resolution(config.minibatch, config.resolution), seed=config.seed,
            weights=options.inception, log=log.info) if is_chief(strategy) else None
        method = StyleGan(config, dataset, strategy, evaluate, origin)
        training = Training(method, run_dir, strategy, log, options.keep)
        try:
            finished = training.run()
        except tf.errors.ResourceExhaustedError:
            raise UserError("the device's memory is too small for this training; give a smaller "
                            "--minibatch, --resolution or --fmap-max, or more --gpus") from None
    if finished:
        log.info(f"finished. Next: {launch.next_commands(run_dir, config, dataset)}")
        return 0
    status = 128 + training.stop_signal
    end_if_stuck(status)
    return status


if __name__ == "__main__":
    cli.run_main(main)
