#!/usr/bin/env python3
"""Train a network: Style-GAN, -C or -2D, segmentation, a decoder of maps, pix2pix (photos from
maps), CycleGAN, or people in other poses."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from dnnlib import cli
from dnnlib.cluster import find_workers
from dnnlib.util import UserError
from training.run.options import given_options, parse_training_options

if TYPE_CHECKING:
    import tensorflow as tf

    from training.run.job import Job

EXAMPLES = """\
  python train.py --variant=2d --gpus=4
  python train.py --variant=rgb --preset=small-64 --data=datasets/mine --device=cpu
  python train.py --run=3                # continue run 00003 with its own options
  python train.py --variant=2d --init-from=results/00000-rgb-modanet --untagged=datasets/more-photos
  python train.py --variant=2d --gpus=4 --workers=host0:2222,host1:2222 --worker-index=0
  python train.py --variant=segmenter --help        # the options of a variant
  python train.py --variant=segmenter --data=datasets/modanet --data2=datasets/generated
  python train.py --variant=decoder --init-from=results/00000-rgb-modanet --labels=twenty
  python train.py --variant=pix2pix --data=datasets/modanet    # photos from maps
  python train.py --variant=cyclegan --data=datasets/leather --target=datasets/denim
  python train.py --variant=pose --data=datasets/poses    # people in other poses
"""


def main(argv: list[str]) -> int:
    """Train a network, or print the plan of it; return the exit status."""
    options = parse_training_options(argv, __doc__, EXAMPLES)
    given = given_options(options)
    workers, index = find_workers(options.workers, options.worker_index,
                                  os.environ.get("TF_CONFIG"))
    if options.measure and workers:
        raise UserError("--measure: times the devices of one machine; leave it out with several "
                        "workers")
    # Imported here, because TensorFlow takes seconds to load: --help and wrong options answer at
    # once.
    import tensorflow as tf

    from dnnlib.tflib.distribute import create_strategy, worker_session
    from training.run import launch

    # Each critic and resolution is traced separately on purpose; TensorFlow would warn about it.
    tf.get_logger().setLevel("ERROR")
    job = make_job(options, given, workers)
    if options.dry_run:
        launch.print_plan(job)
        return 0
    strategy = create_strategy(options.device, options.gpus, workers, index, job.facts())
    with worker_session(strategy):
        return train(job, strategy)


def make_job(options: argparse.Namespace, given: dict[str, Any],
             workers: list[str] | None) -> "Job":
    """Return the Job of a command. Only this function knows all kinds of training."""
    from metrics import evaluation
    from training.cycle.job import CycleJob
    from training.decoder.job import DecoderJob
    from training.pose.job import PoseJob
    from training.run import launch
    from training.run.stylegan_job import StyleGanJob
    from training.segmentation.job import SegmenterJob
    from training.translation.job import Pix2PixJob

    config = launch.choose_config(options, given)
    num_replicas = options.gpus * len(workers or [0])
    kinds = {"segmenter": SegmenterJob, "decoder": DecoderJob, "pix2pix": Pix2PixJob,
             "cyclegan": CycleJob, "pose": PoseJob}
    return kinds.get(config.variant, StyleGanJob)(config, options, given, num_replicas, evaluation)


def train(job: "Job", strategy: "tf.distribute.Strategy") -> int:
    """Start or continue a run, and train to the end of its schedule; return the exit status."""
    import tensorflow as tf

    from training.run import launch
    from training.run.signals import end_if_stuck
    from training.training_loop import Training

    with launch.open_run(strategy, job) as (run_dir, log):
        for line in job.notes:
            log.info(line)
        training = Training(job.make_method(strategy, log), run_dir, strategy, log,
                            job.options.keep)
        try:
            finished = training.run()
        except tf.errors.ResourceExhaustedError:
            raise UserError("the device's memory is too small for this training; give a smaller "
                            "--minibatch or --resolution, smaller networks, more --gpus, or, for "
                            "variants that have them, --minibatch-per-gpu or --precision=bf16"
                            ) from None
    if finished:
        log.info(f"finished. Next: {job.next_commands(run_dir)}")
        return 0
    status = 128 + training.stop_signal
    end_if_stuck(status)
    return status


if __name__ == "__main__":
    cli.run_main(main)
