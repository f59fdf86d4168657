"""Make and inspect data sets: photos with labels -> TFRecords of every resolution."""

import argparse
import os
import shlex
from pathlib import Path

from dataprep import create, dataset_report, extract, raw_files, side_by_side, verify
from dnnlib import cli, suggestions, util
from dnnlib.cli import natural, positive_int
from dnnlib.data import pictures, pyramid, tfrecords
from dnnlib.data.dataset import open_dataset

_EXAMPLES = """\
  python dataset_tool.py create_modanet
  python dataset_tool.py create_modanet --source ~/modanet --out datasets/modanet64 --resolution 64
  python dataset_tool.py create_modanet --untagged
  python dataset_tool.py create_synthetic --num-images 2000 --resolution 64
  python dataset_tool.py create_synthetic --keypoints --poses 4 --out datasets/poses
  python dataset_tool.py create_from_images --source ~/photos --out datasets/untagged
  python dataset_tool.py create_from_images --source ~/photos --labels labels.json --out datasets/x
  python dataset_tool.py create_from_masks --source ~/mine --out datasets/mine
  python dataset_tool.py create_from_coco --annotations a.json --images ~/mine --out datasets/mine
  python dataset_tool.py create_from_pairs --source facades --classes facades --resolution 256
  python dataset_tool.py create_modanet --runner=DirectRunner -- \\
      --direct_running_mode=multi_processing --direct_num_workers=8
  python dataset_tool.py info datasets/modanet
  python dataset_tool.py info datasets/modanet --verify
  python dataset_tool.py display datasets/modanet --out sheet.png
  python dataset_tool.py extract datasets/modanet --out pictures --split val
"""
_SHOWN_DEFECTS = 10
_NAMES = {"create_modanet": "modanet", "create_from_coco": "coco"}  # default folders


def _resolution(text):
    """Return a power of two from 4 to 1024."""
    if text not in {str(2**level) for level in range(tfrecords.MIN_LEVEL, 11)}:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a power of two from 4 to 1024")
    return int(text)


def _class_names(text):
    """Return the class names in 'top,pants', which must differ."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: expected names of classes, each once, such as "
                                         "top,pants,dress")
    return names


def _mask_value(text):
    """Return a number that a mask can have, except the background's."""
    if not 1 <= natural(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to 65535")
    return int(text)


def _add_create_options(parser, out, num_images=None, out_help=""):
    """Add the options that all create commands share."""
    add = parser.add_argument
    add("--out", default=out, metavar="DIR", help="folder of the new data set" + out_help)
    add("--resolution", type=_resolution, default=512, metavar="N",
        help="side of the largest level")
    add("--fit", choices=pyramid.FITS, default="pad",
        help="pad: the whole photo, padded with white; crop: its largest centred square")
    add("--encoding", choices=tfrecords.ENCODINGS, default="webp",
        help="webp and png are lossless; raw is the official format, 15 times larger")
    add("--num-images", type=positive_int, default=num_images, metavar="N",
        help="use only this many photos")
    add("--num-val", type=natural, metavar="N", help="validation photos; not given: 2,000 of the "
        "full ModaNet, the same share of smaller sets, none without labels")
    add("--num-test", type=natural, metavar="N",
        help="test photos; not given: 5,000 of the full ModaNet, otherwise as for --num-val")
    add("--seed", type=natural, default=0, help="seed of the splits and of the order of photos")
    add("--workers", type=positive_int, default=os.cpu_count() or 1, metavar="N",
        help="number of processes, which does not change the result; with --runner they only "
        "prepare")
    add("--runner", metavar="NAME", help="convert ranges of photos on Apache Beam "
        "(requirements-beam.txt): DirectRunner, FlinkRunner, ...; options after -- are the "
        "runner's")
    add("--dry-run", action="store_true",
        help="count the photos, estimate size and time, write nothing")


def _build_parser():
    """Return (parser, {command: its parser})."""
    parser = cli.argument_parser(__doc__, _EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False,
                                  formatter_class=parser.formatter_class)
        sub.add_argument("--debug", action="store_true", help="show a traceback with an error")
        return sub

    _add_annotated_commands(command)
    _add_folder_commands(command)
    _add_viewing_commands(command)
    return parser, commands.choices


def _add_annotated_commands(command):
    """Add create_modanet, create_from_coco and create_synthetic; command(name, text) returns a new
    subparser."""
    modanet = command("create_modanet", "photos with ModaNet's annotations: RGB + 13 class maps")
    add = modanet.add_argument
    add("--source", default=raw_files.DEFAULT_SOURCE, metavar="DIR",
        help="folder that holds annotations/ and images/ (or photos.lmdb)")
    add("--annotations", metavar="JSON", help="COCO file; not given: the train file under "
        "--source or, with --untagged, the validation file, which has no polygons")
    add("--images", metavar="PATH",
        help="folder or zip of photos, or photos.lmdb; not given: found under --source")
    coco = command("create_from_coco", "photos with COCO annotations of any classes: RGB + one map "
                                       "per class, in the order of the category ids")
    add = coco.add_argument
    add("--source", metavar="DIR", help="folder that holds the JSON file, or annotations/ with it, "
        "and images/ (or the photos themselves)")
    add("--annotations", metavar="JSON", help="COCO file; not given: found under --source")
    add("--images", metavar="PATH", help="folder or zip of photos; not given: found under --source")
    add("--keypoints", metavar="JSON", help="COCO keypoint file of the same photos, matched by "
        "file name; without --annotations and --source: of the photos in --images, for a data set "
        "of RGB and keypoints only")
    add("--pairs", metavar="CSV", help="list of pairs of photos of one person: columns from and to "
        "with file names; each person is in one split only")
    for parser, name in ((modanet, "modanet"), (coco, "coco")):
        parser.add_argument("--untagged", action="store_true", help="make an RGB data set of the "
                            "photos without annotations, for train.py --untagged")
        _add_create_options(parser, None, out_help=f"; not given: datasets/{name} or, with "
                                                   f"--untagged, datasets/{name}-untagged")
    synthetic = command("create_synthetic", "drawn street-fashion figures with all classes")
    for parser in (modanet, coco, synthetic):
        parser.add_argument("--only-classes", type=_class_names, metavar="NAME,...", help="keep "
                            "only these classes: others become background, and photos that show "
                            "none of these are left out; not given: all classes")
    synthetic.add_argument("--keypoints", action="store_true",
                           help="store the figures' 18 keypoints")
    synthetic.add_argument("--poses", type=positive_int, default=1, metavar="N",
                           help="photos of each person, in different poses")
    _add_create_options(synthetic, "datasets/synthetic", num_images=2000)


def _add_folder_commands(command):
    """Add create_from_images, create_from_masks and create_from_pairs."""
    images = command("create_from_images", "any folder of photos: RGB only")
    add = images.add_argument
    add("--source", required=True, metavar="DIR",
        help="folder of photos, with subfolders; or of the official tool's record files")
    add("--labels", metavar="JSON", help="labels to condition networks on: "
        '{"labels": [["a.png", 3], ...]}, with class numbers or lists of numbers')
    _add_create_options(images, "datasets/untagged")
    masked = command("create_from_masks", "photos with mask PNGs: RGB + one map per class")
    add = masked.add_argument
    add("--source", metavar="DIR", help="folder that holds images/, labels/ (or masks/) and "
        "classes.txt (or .json, or labelmap.txt); or photos and PNG masks in one folder")
    add("--images", metavar="DIR", help="folder of photos; not given: found under --source")
    add("--masks", metavar="DIR", help="folder of PNGs named like the photos, or with an ending "
        "such as _mask: 0 is the background, 1..C are the classes; or colours listed in --classes")
    add("--classes", metavar="FILE", help="names of the classes, one per line (name, or name "
        "#rrggbb if masks are coloured), a JSON list, or CVAT's labelmap.txt")
    add("--ignore", type=_mask_value, metavar="N",
        help="mask value that counts as background; not given: 255")
    _add_create_options(masked, "datasets/masks")
    paired = command("create_from_pairs", "pictures that hold photo and labels side by side, as "
                                          "pix2pix's data sets do: RGB + one map per class")
    add = paired.add_argument
    add("--source", required=True, metavar="DIR", help="folder of pictures; its subfolders train/, "
        "val/ and test/, if it has them, are the splits")
    add("--classes", required=True, metavar="LIST", help="file with the names and colours of the "
        "labels, one per line (name #rrggbb), or a JSON object; or facades, the twelve of CMP "
        "Facades")
    add("--photo", choices=side_by_side.SIDES, default="left", help="side of the photo")
    _add_create_options(paired, "datasets/pairs")


def _add_viewing_commands(command):
    """Add info, extract and display."""
    add = command("info", "what a data set holds, with the frequency of its classes").add_argument
    add("data", metavar="DIR", help="folder of the data set")
    add("--verify", action="store_true", help="read every record and compare with dataset.json")
    add = command("extract", "images, label PNGs and COCO JSON from a data set").add_argument
    add("data", metavar="DIR", help="folder of the data set")
    add("--out", required=True, metavar="DIR",
        help="new folder, or that of an interrupted run to continue")
    add("--split", default="all", choices=("train", "val", "test", "all"), help="split to write")
    add("--resolution", type=_resolution, metavar="N",
        help="level to write; not given: the largest")
    add = command("display", "a picture of some images: photo, map, overlay").add_argument
    add("data", metavar="DIR", help="folder of the data set")
    add("--out", default="sheet.png", metavar="PNG", help="file to write")
    add("--split", default="train", help="train, val or test")
    add("--num", type=positive_int, default=24, metavar="N", help="number of images")
    add("--columns", type=positive_int, default=4, metavar="N", help="images per row")
    add("--resolution", type=_resolution, metavar="N", help="level to show; not given: the largest")
    add("--seed", type=natural, default=0, help="seed for choosing the images")


def main(argv: list[str]) -> int:
    """Run one command; return the exit status."""
    parser, commands = _build_parser()
    own, of_runner = cli.split_argv(argv)
    args = parser.parse_args(own)
    cli.check_runner(getattr(args, "runner", None), of_runner)
    places = {**dict.fromkeys(_NAMES, ("annotations", "images")),
              "create_from_masks": ("images", "masks", "classes")}.get(args.command, ())
    named = bool(places) and all(getattr(args, name) is not None for name in places)
    cli.refuse_idle(cli.non_default_options(commands[args.command], args), [
        cli.IdleRule(("source",), named,
                     f"{', '.join(f'--{name}' for name in places)} name all that is read"),
        cli.IdleRule(("only_classes",), getattr(args, "untagged", False),
                     "a data set for --untagged has no classes"),
        cli.IdleRule(("poses",), not getattr(args, "keypoints", True),
                     "pairs of photos belong to --keypoints")])
    if args.command in _NAMES and args.out is None:
        args.out = f"datasets/{_NAMES[args.command]}{'-untagged' if args.untagged else ''}"
    _check_paths(args)
    if args.command == "info" and args.verify:
        return _verify(args.data)
    if args.command == "info":
        print("\n".join(dataset_report.summary_lines(args.data)))
        _write_report(args.data)
    elif args.command == "extract":
        extract.extract(args.data, args.out, args.split, args.resolution, print)
    elif args.command == "display":
        sheet = dataset_report.contact_sheet(args.data, args.split, args.num, args.columns,
                                             args.resolution, args.seed)
        pictures.save_png(args.out, pictures.with_legend(sheet, open_dataset(args.data).classes))
        print(f"{args.out} written")
    else:
        if args.runner is not None:
            from dnnlib.beam_runner import BeamRunner  # Beam need not be installed
            args.runner = BeamRunner(args.runner, of_runner)
        content = getattr(create, args.command)(args, print)
        if content is not None:
            _write_report(args.out)
            print(_next_step(args.out, content))
    return 0


def _check_paths(args):
    """Raise UserError for a file where a folder is expected, or a folder for a file."""
    for name in ("annotations", "keypoints", "pairs", "labels", "classes"):
        path = getattr(args, name, None)
        if path not in (None, *side_by_side.BUILT_IN) and os.path.isdir(path):
            raise util.UserError(f"--{name}={path}: is a folder, not a file")
    if args.command == "info":
        return
    out = Path(args.out)
    if args.command == "display" and (out.suffix.lower() != ".png" or out.is_dir()):
        raise util.UserError(f"--out={out}: expected the name of a file that ends with .png")
    folder = (out if args.command != "display" else out.parent).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise util.UserError(f"--out={out}: {folder} is a file, not a folder")


def _verify(directory):
    """Print whether a data set matches its dataset.json; return the exit status."""
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
    """Write report.html beside the data; warn if that fails, as in a read-only folder."""
    try:
        print(f"{dataset_report.write_report(directory)} shows what is in it")
    except OSError as error:
        print(f"warning: no {dataset_report.FILE_NAME} beside the data: {util.one_line(error)}")


def _next_step(out, content):
    """Return what the user can do next with a data set, given dataset.json's content: commands
    that suit its size and run as they are."""
    options = suggestions.training_options(len(content["splits"]["train"]), content["resolution"])
    variant = "2d" if content["classes"] and not content["label_size"] else "rgb"
    training = suggestions.command("train.py", f"--variant={variant}", f"--data={out}", *options)
    if content["label_size"]:
        return f"train a conditional network: {training}"
    if content["classes"]:
        return (f"look at it: {suggestions.command('dataset_tool.py', 'display', out)}\n"
                f"train: {training}")
    return (f"train the RGB baseline: {training}\n"
            "or give it as photos without labels to the training of a labelled data set: "
            + shlex.quote(f"--untagged={out}"))


if __name__ == "__main__":
    cli.run_main(main)
