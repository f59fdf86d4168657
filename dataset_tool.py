"""Make and look at data sets: photos with labels -> TFRecords of every resolution."""

import argparse
import os
import shlex

from dataprep import create, dataset_page, extract, modanet, pyramid, report, verify
from dnnlib import suggestions, util
from dnnlib.data import pictures, tfrecords

_EXAMPLES = """\
  python dataset_tool.py create_modanet
  python dataset_tool.py create_modanet --source ~/modanet --out datasets/modanet64 --resolution 64
  python dataset_tool.py create_modanet --untagged
  python dataset_tool.py create_synthetic --num-images 2000 --resolution 64
  python dataset_tool.py create_from_images --source ~/photos --out datasets/untagged
  python dataset_tool.py create_from_images --source ~/photos --labels labels.json --out datasets/x
  python dataset_tool.py create_from_masks --source ~/mine --out datasets/mine
  python dataset_tool.py create_from_coco --annotations a.json --images ~/mine --out datasets/mine
  python dataset_tool.py info datasets/modanet
  python dataset_tool.py info datasets/modanet --verify
  python dataset_tool.py display datasets/modanet --out sheet.png
  python dataset_tool.py extract datasets/modanet --out pictures --split val
"""
_SHOWN_DEFECTS = 10
_CREATE = {"create_modanet": create.create_modanet, "create_from_coco": create.create_from_coco,
           "create_synthetic": create.create_synthetic,
           "create_from_images": create.create_from_images,
           "create_from_masks": create.create_from_masks}
_NAMES = {"create_modanet": "modanet", "create_from_coco": "coco"}  # of default folders


def _resolution(text):
    """A power of two from 4 to 1024."""
    if text not in {str(2**level) for level in range(tfrecords.MIN_LEVEL, 11)}:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a power of two from 4 to 1024")
    return int(text)


def _count(text):
    """A whole number from 0."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def _ignored(text):
    """A number that a mask can have, and is not the background's."""
    if not 1 <= _count(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to 65535")
    return int(text)


def _positive(text):
    """A whole number from 1."""
    if _count(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def _add_create_options(parser, out, num_images=None, out_help=""):
    """The options that all create commands share."""
    parser.add_argument("--out", default=out, metavar="DIR",
                        help="folder of the new data set" + out_help)
    parser.add_argument("--resolution", type=_resolution, default=512, metavar="N",
                        help="side of the largest level")
    parser.add_argument("--fit", choices=pyramid.FITS, default="pad",
                        help="pad: the whole photo, on white; crop: its largest centred square")
    parser.add_argument("--encoding", choices=tfrecords.ENCODINGS, default="webp",
                        help="webp and png are lossless; raw is the official form, 15 times larger")
    parser.add_argument("--num-images", type=_positive, default=num_images, metavar="N",
                        help="use this many photos; all where not given")
    parser.add_argument("--num-val", type=_count, metavar="N",
                        help="validation photos; not given: 2,000 of the full ModaNet, in "
                             "proportion of less, none without labels")
    parser.add_argument("--num-test", type=_count, metavar="N",
                        help="test photos; not given: 5,000 of the full ModaNet, and so on")
    parser.add_argument("--seed", type=_count, default=0, help="of the splits and the order")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N",
                        help="processes; the result does not depend on it")
    parser.add_argument("--dry-run", action="store_true",
                        help="count the photos, project size and time, write nothing")


def _build_parser():
    parser = util.argument_parser(__doc__, _EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False,
                                  formatter_class=parser.formatter_class)
        sub.add_argument("--debug", action="store_true", help="show a traceback with an error")
        return sub

    _add_annotated_commands(command)
    _add_folder_commands(command)
    _add_viewing_commands(command)
    return parser


def _add_annotated_commands(command):
    """create_modanet, create_from_coco and create_synthetic. command(name, text) -> a new
    subparser."""
    annotated = command("create_modanet", "photos with ModaNet's annotations: RGB + 13 class maps")
    annotated.add_argument("--source", default=modanet.DEFAULT_SOURCE, metavar="DIR",
                           help="folder that holds annotations/ and images/ (or photos.lmdb)")
    annotated.add_argument("--annotations", metavar="JSON",
                           help="COCO file; not given: the train file below --source, with "
                                "--untagged the validation file, which has no polygons")
    annotated.add_argument("--images", metavar="PATH",
                           help="folder or zip of photos, or photos.lmdb; not given: below "
                                "--source")
    annotated.add_argument("--untagged", action="store_true",
                           help="RGB only, of the photos without annotations: for train.py "
                                "--untagged")
    _add_create_options(annotated, None, out_help="; not given: datasets/modanet, with --untagged "
                                                  "datasets/modanet-untagged")
    coco = command("create_from_coco", "photos with COCO annotations of any classes: RGB + one map "
                                       "per class, in the order of the category ids")
    coco.add_argument("--source", metavar="DIR", help="folder that holds the JSON file, or "
                      "annotations/ with it, and images/ (or the photos themselves)")
    coco.add_argument("--annotations", metavar="JSON", help="COCO file; not given: below --source")
    coco.add_argument("--images", metavar="PATH",
                      help="folder or zip of photos; not given: below --source")
    coco.add_argument("--untagged", action="store_true",
                      help="RGB only, of the photos without annotations: for train.py --untagged")
    _add_create_options(coco, None, out_help="; not given: datasets/coco, with --untagged "
                                             "datasets/coco-untagged")
    synthetic = command("create_synthetic", "drawn street-fashion figures with all classes")
    _add_create_options(synthetic, "datasets/synthetic", num_images=2000)


def _add_folder_commands(command):
    """create_from_images and create_from_masks."""
    images = command("create_from_images", "any folder of photos: RGB only")
    images.add_argument("--source", required=True, metavar="DIR",
                        help="folder of photos, subfolders too; or of the official tool's record "
                             "files")
    images.add_argument("--labels", metavar="JSON", help="labels to condition networks on: "
                        '{"labels": [["a.png", 3], ...]}, classes or lists of numbers')
    _add_create_options(images, "datasets/untagged")
    masked = command("create_from_masks", "photos with mask PNGs: RGB + one map per class")
    masked.add_argument("--source", metavar="DIR", help="folder that holds images/, labels/ (or "
                        "masks/) and classes.txt (or .json, or labelmap.txt); or photos and PNG "
                        "masks side by side")
    masked.add_argument("--images", metavar="DIR", help="photos; not given: below --source")
    masked.add_argument("--masks", metavar="DIR",
                        help="PNGs named like the photos, or with an ending such as _mask: 0 "
                             "background, 1..C the classes, or colours that the list gives")
    masked.add_argument("--classes", metavar="FILE",
                        help="names of the classes, one a line (name, or name #rrggbb where "
                             "masks are coloured), a JSON list, or CVAT's labelmap.txt")
    masked.add_argument("--ignore", type=_ignored, metavar="N",
                        help="mask value that counts as background; not given: 255")
    _add_create_options(masked, "datasets/masks")


def _add_viewing_commands(command):
    """info, extract and display."""
    info = command("info", "what a data set holds, with the frequency of its classes")
    info.add_argument("data", metavar="DIR", help="folder of the data set")
    checks = info.add_mutually_exclusive_group()
    checks.add_argument("--verify", action="store_true",
                        help="read every record and compare with dataset.json")
    checks.add_argument("--digest", action="store_true",
                        help="print one sha256 of all files of the data set")
    back = command("extract", "images, label PNGs and COCO JSON out of a data set")
    back.add_argument("data", metavar="DIR", help="folder of the data set")
    back.add_argument("--out", required=True, metavar="DIR", help="new folder, or one to go on in")
    back.add_argument("--split", default="all", choices=("train", "val", "test", "all"),
                      help="what to write")
    back.add_argument("--resolution", type=_resolution, metavar="N",
                      help="level to write; not given: the largest")
    display = command("display", "a picture of some images: photo, map, overlay")
    display.add_argument("data", metavar="DIR", help="folder of the data set")
    display.add_argument("--out", default="sheet.png", metavar="PNG", help="file to write")
    display.add_argument("--split", default="train", help="train, val or test")
    display.add_argument("--num", type=_positive, default=24, metavar="N", help="images")
    display.add_argument("--columns", type=_positive, default=4, metavar="N", help="images a row")
    display.add_argument("--resolution", type=_resolution, metavar="N",
                         help="level to show; not given: the largest")
    display.add_argument("--seed", type=_count, default=0, help="of the choice of images")


def main(argv):
    """Run one command; returns the exit status."""
    args = _build_parser().parse_args(argv)
    if args.command in _NAMES and args.out is None:
        args.out = f"datasets/{_NAMES[args.command]}{'-untagged' if args.untagged else ''}"
    if args.command == "info" and args.verify:
        return _verify(args.data)
    if args.command == "info" and args.digest:
        print(verify.digest(args.data))
    elif args.command == "info":
        print("\n".join(report.describe(args.data)))
        _write_report(args.data)
    elif args.command == "extract":
        extract.extract(args.data, args.out, args.split, args.resolution, print)
    elif args.command == "display":
        sheet = report.contact_sheet(args.data, args.split, args.num, args.columns,
                                     args.resolution, args.seed)
        pictures.save_png(args.out, sheet)
        print(f"{args.out} written")
    else:
        content = _CREATE[args.command](args, print)
        if content is not None:
            _write_report(args.out)
            print(_next_step(args.out, content))
    return 0


def _verify(directory):
    """Print whether a data set is what it says; returns the exit status."""
    defects = verify.find_defects(directory, os.cpu_count() or 1)
    for defect in defects[:_SHOWN_DEFECTS]:
        print(defect)
    if len(defects) > _SHOWN_DEFECTS:
        print(f"and {len(defects) - _SHOWN_DEFECTS} more")
    if defects:
        print(f"{directory}: {len(defects)} defects; make or copy this data set again")
        return 2
    print(f"{directory}: every record is whole, and dataset.json is right")
    return 0


def _write_report(directory):
    """Write report.html beside the data, or say why it cannot be: a folder may be read-only."""
    try:
        print(f"{dataset_page.write_report(directory)} shows what is in it")
    except OSError as error:
        print(f"warning: no {dataset_page.FILE_NAME} beside the data: {util.one_line(error)}")


def _next_step(out, content):
    """What the user can do with the new data set, of which dataset.json says `content`: commands
    that fit its size and run as they are."""
    num_photos, resolution = len(content["splits"]["train"]), content["resolution"]

    def training(variant):
        return suggestions.command("train.py", f"--variant={variant}", f"--data={out}",
                                   *suggestions.training_options(num_photos, resolution))
    if content["label_size"]:
        return f"train a conditional network: {training('rgb')}"
    if content["classes"]:
        return (f"look at it: {suggestions.command('dataset_tool.py', 'display', out)}\n"
                f"train: {training('2d')}")
    return (f"train the RGB baseline: {training('rgb')}\n"
            "or give it as photos without labels to the training of a labelled data set: "
            + shlex.quote(f"--untagged={out}"))


if __name__ == "__main__":
    util.run_main(main)
