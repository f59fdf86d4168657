"""The memory of a step of a CycleGAN or of pix2pix, measured in a process of its own.

    python -m benchmarks.sides.translation_memory_side --method=cyclegan --resolution=256

Options are those of benchmarks.torch_translation. Prints a line of JSON: by how much the process's
resident set rose, at most, above the program itself (rss_bytes).
"""

import json
import sys

from benchmarks.sides.memory_side import resident
from benchmarks.torch_translation import OurSide, parse_options


def main(argv):
    """Take two steps and print."""
    before = resident("VmRSS")
    side = OurSide(parse_options(argv))
    for _ in range(2):
        side.run()
    print(json.dumps({"rss_bytes": resident("VmHWM") - before}))


if __name__ == "__main__":
    main(sys.argv[1:])
