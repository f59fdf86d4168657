"""Make and look at data sets: annotated photos -> multi-resolution TFRecords."""

import argparse
import os

from dataprep import create, pyramid
from dnnlib import util
from dnnlib.tflib import tfrecords

EXAMPLES = """\
  python dataset_tool.py create_modanet
  python dataset_tool.py create_modanet --source ~/modanet --out datasets/modanet64 --resolution 64
  python dataset_tool.py create_from_images --source ~/photos --out datasets/untagged
"""


def power_of_two(text):
    """Resolution: 4, 8, ... 1024."""
    if text not in {str(2**level) for level in range(tfrecords.MIN_LEVEL, 11)}:
        raise argparse.ArgumentTypeError(f"{text!r}: a resolution is a power of two from 4 to 1024")
    return int(text)


def count(text):
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def add_create_options(parser, out):
    """Options that all create commands have."""
    parser.add_argument("--out", default=out, help="folder of the new data set")
    parser.add_argument("--resolution", type=power_of_two, default=512, help="side of the largest level")
    parser.add_argument("--fit", choices=pyramid.FITS, default="pad",
                        help="pad: whole photo on white; crop: largest centred square")
    parser.add_argument("--encoding", choices=tfrecords.ENCODINGS, default="webp",
                        help="webp and png are lossless; raw is the official release's form, ten times larger")
    parser.add_argument("--num-images", type=count, help="use this many photos (default: all)")
    parser.add_argument("--num-val", type=count, help="validation photos (default: ModaNet's proportion)")
    parser.add_argument("--num-test", type=count, help="test photos (default: ModaNet's proportion)")
    parser.add_argument("--seed", type=count, default=0, help="seed of splits and order")
    parser.add_argument("--workers", type=count, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--dry-run", action="store_true", help="count and project, write nothing")


def build_parser():
    """The command line."""
    parser = util.argument_parser(__doc__, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modanet = commands.add_parser("create_modanet", help="ModaNet annotations and photos")
    modanet.add_argument("--source", default="datasets/modanet/raw", help="folder with annotations/ and images/")
    modanet.add_argument("--annotations", help="COCO JSON (default: the train file below --source)")
    modanet.add_argument("--images", help="photos: folder or photos.lmdb (default: below --source)")
    add_create_options(modanet, "datasets/modanet")
    images = commands.add_parser("create_from_images", help="RGB only, from any folder of photos")
    images.add_argument("--source", required=True, help="folder of photos, subfolders included")
    add_create_options(images, "datasets/untagged")
    return parser


COMMANDS = {"create_modanet": create.create_modanet, "create_from_images": create.create_from_images}


def main(argv):
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(argv)
    COMMANDS[args.command](args, print)
    return 0


if __name__ == "__main__":
    util.run_main(main)
