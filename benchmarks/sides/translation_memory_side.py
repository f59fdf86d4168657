"""Measure the memory of a step of a CycleGAN or of pix2pix, in a process of its own.

Prints a line of JSON: the method and its sizes, and by how much the process's resident set rose, at
most, above the program itself (rss_bytes).
"""

import json

from benchmarks.sides.memory_side import resident
from benchmarks.torch_translation import OurSide, add_sizes, refuse_idle, sizes
from dnnlib import cli
from training.method_config import PRECISIONS

EXAMPLES = """\
  python -m benchmarks.sides.translation_memory_side --method=cyclegan --resolution=256
  python -m benchmarks.sides.translation_memory_side --minibatch=4 --minibatch-per-gpu=1
"""


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add_sizes(parser)
    parser.add_argument("--minibatch-per-gpu", type=cli.positive_int, default=0, metavar="N",
                        help="for cyclegan: photos processed at once (default: all)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32",
                        help="precision of activations")
    options = parser.parse_args(argv)
    refuse_idle(parser, options)
    return options


def main(argv):
    """Take two steps and print."""
    options, before = parse_options(argv), resident("VmRSS")
    side = OurSide(options)
    for _ in range(2):
        side.run()
    print(json.dumps({**sizes(options), "precision": options.precision,
                      "rss_bytes": resident("VmHWM") - before}))
    return 0


if __name__ == "__main__":
    cli.run_main(main)
