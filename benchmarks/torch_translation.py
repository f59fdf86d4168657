"""Measure how fast a step of a CycleGAN or of pix2pix is, or how fast pix2pix draws photos from
maps: ours against plain PyTorch of equal size, alternating on the same processor."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.detector import PAUSE_SEC, read_answer
from benchmarks.result import ROOT, cpu_name, report
from benchmarks.torch_stylegan import check_torch
from dnnlib import cli, util
from dnnlib.util import UserError

METHODS = ("cyclegan", "pix2pix")
IDLE = {"cyclegan": ("channels",), "pix2pix": ("blocks", "minibatch_per_gpu")}
SIZES = ("method", "resolution", "minibatch", "fmaps", "strides", "blocks", "channels")
EXAMPLES = """\
  python -m benchmarks.torch_translation --torch-python=venv-torch/bin/python --resolution=128
  python -m benchmarks.torch_translation --method=pix2pix --resolution=128 --channels=12
  python -m benchmarks.torch_translation --method=pix2pix --generation
"""


def main(argv):
    """Measure, print and, with --out, write JSON. Return the exit status."""
    options = parse_options(argv)
    with start_side(options) as other:  # which ends when its stdin is closed
        result = compare(options, other)
    report(result, options.out)
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add_sizes(parser)
    add = parser.add_argument
    add("--generation", action="store_true", help="for pix2pix: time drawing photos from maps "
        "instead of steps, with dropout on, as in generate.py --maps")
    add("--torch-python", default=sys.executable, metavar="PATH", help="interpreter that has torch")
    add("--threads", type=cli.positive_int, default=len(os.sched_getaffinity(0)),
        help="threads of each side")
    add("--rounds", type=cli.positive_int, default=12, help="timed steps, or drawn minibatches, of "
        "each side; the sides take turns to begin")
    add("--out", metavar="FILE", help="also write the JSON to this file")
    parser.set_defaults(minibatch_per_gpu=0, precision="fp32")
    options = parser.parse_args(argv)
    refuse_idle(parser, options)
    return options


def add_sizes(parser):
    """Add the options for the method and its sizes."""
    add = parser.add_argument
    add("--method", choices=METHODS, default=METHODS[0], help="cyclegan: two ResNet generators, "
        "two critics, a pool; pix2pix: a U-Net and its critic")
    add("--resolution", type=cli.positive_int, default=128, help="resolution of the photos")
    add("--minibatch", type=cli.positive_int, default=1, help="photos of a step")
    add("--fmaps", type=cli.positive_int, default=64, help="fmaps of all networks' first layers")
    add("--blocks", type=cli.positive_int, default=9, help="for cyclegan: residual blocks")
    add("--strides", type=cli.positive_int, default=3, help="layers of stride 2 in the critics")
    add("--channels", type=cli.positive_int, default=12, help="for pix2pix: classes of the maps")


def refuse_idle(parser, options):
    """Raise UserError for options that have no effect on the method."""
    cli.refuse_idle(cli.non_default_options(parser, options), [
        cli.IdleRule(IDLE[options.method], True, f"{options.method} has none"),
        cli.IdleRule(["generation"], options.method != "pix2pix", "only that of pix2pix is timed")])


def sizes(options):
    """Return {name: value}, the method and its sizes, as a result records them."""
    return {name: getattr(options, name) for name in (*SIZES, "minibatch_per_gpu")
            if name not in IDLE[options.method]}


def start_side(options):
    """Return the process of the PyTorch side, which waits for lines on its stdin."""
    check_torch(options.torch_python)
    command = [options.torch_python, "-m", "benchmarks.sides.torch_translation_side",
               options.method, str(options.resolution), str(options.minibatch),
               *(f"--{name}={getattr(options, name)}"
                 for name in ("fmaps", "blocks", "strides", "channels", "threads")),
               *(["--generation"] if options.generation else [])]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)


class OurSide:
    """Our method, with its own networks and optimizers, on a constant batch of noise.

    Attributes:
        parameters: {network: number of trained parameters}.
    """

    def __init__(self, options):
        import tensorflow as tf

        self.method, self._batch = make_method(options, tf.distribute.OneDeviceStrategy("/cpu:0"))
        self._stage, self.steps = self.method.stage(self.method.begin()), 0
        self.parameters = {name: sum(int(np.prod(var.shape)) for var in network.trainables.values())
                           for name, network in self.method.networks.items()}

    def run(self):
        """Do one step, and wait until it is done."""
        report = self.method.step(self._batch, self._stage, self.steps)
        self.steps += 1
        return [float(value) for value in report.values()]

    def draw(self):
        """Return the photos, float32 [n, R, R, 3], that pix2pix draws from the batch's maps, as in
        generate.py."""
        return self.method.translate(self._batch.images[..., 3:])


def make_method(options, strategy):
    """Return our method for the options, and a batch for it."""
    import tensorflow as tf

    from training.cycle.config import CycleConfig
    from training.cycle.cyclegan import CycleTraining
    from training.cycle.domains import Domain, DomainBatch
    from training.dataset import Batch
    from training.translation.config import Pix2PixConfig
    from training.translation.pix2pix import Pix2Pix

    rng = np.random.default_rng(0)

    def noise(channels):
        shape = (options.minibatch, options.resolution, options.resolution, channels)
        return tf.constant(rng.integers(0, 256, shape, np.uint8))

    common = {"resolution": options.resolution, "minibatch": options.minibatch,
              "precision": options.precision}
    if options.method == "cyclegan":
        config = CycleConfig(**common, fmaps=options.fmaps, blocks=options.blocks,
                             strides=options.strides,
                             minibatch_per_gpu=options.minibatch_per_gpu)
        domains = [Domain(Path(side), options.resolution) for side in "ab"]
        return CycleTraining(config, domains, strategy), DomainBatch(noise(3), noise(3))
    config = Pix2PixConfig(**common, g_fmaps=options.fmaps, d_fmaps=options.fmaps,
                           d_strides=options.strides, mirror_pairs="none")
    classes = tuple(f"class{i}" for i in range(options.channels))
    return (Pix2Pix(config, classes, strategy, None, {}),
            Batch(noise(3 + options.channels), tf.zeros([options.minibatch, 0])))


def compare(options, other):
    """Return the figures of both sides, and the median of the ratios round by round."""
    import tensorflow as tf

    from benchmarks import turns

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    side = OurSide(options)
    work, load = side.draw if options.generation else side.run, os.getloadavg()[0]
    work()
    answer = read_answer("torch", other)
    if answer["parameters"] != side.parameters:
        raise UserError(f"the sides differ in size: ours {side.parameters}, torch "
                        f"{answer['parameters']}")

    def ask():
        other.stdin.write("go\n")
        other.stdin.flush()
        one = read_answer("torch", other)
        return one["wall_sec"], one["cpu_sec"]
    ours, theirs = in_turns([lambda: turns.timed(work), ask], options.rounds)
    return {"cpu": cpu_name(), "threads": options.threads, "rounds": options.rounds,
            "versions": {"tensorflow": tf.__version__, "torch": answer["torch"]},
            "timed": "generation" if options.generation else "steps",
            **sizes(options), "parameters": side.parameters, "load_average_before": round(load, 2),
            "ours": turns.medians(ours, options.minibatch),
            "torch": turns.medians(theirs, options.minibatch),
            "ours_faster": turns.paired_ratio(np.array(ours), np.array(theirs))}


def in_turns(sides, rounds):
    """Return [the results of all rounds] of every side. Every second round runs in reverse order,
    so that neither side always runs after the other."""
    found = [[] for _ in sides]
    for number in util.progress(range(rounds), desc="rounds", unit="round"):
        for side, answers in list(zip(sides, found))[::-1 if number % 2 else 1]:
            time.sleep(PAUSE_SEC)
            answers.append(side())
    return found


if __name__ == "__main__":
    cli.run_main(main)
