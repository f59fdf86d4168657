"""The command line of generate.py: its modes, and the options that each of them takes."""

import argparse
from pathlib import Path
from typing import Any

from dnnlib import cli
from dnnlib.cli import MAX_GRID, MAX_SEED, IdleRule
from dnnlib.data import films
from dnnlib.util import UserError

MAX_PAIRS = 10_000_000  # in one folder: file names have seven digits
MAX_SHARDS = 99_999  # names of shards have five digits
# The modes in which each option has an effect; options not listed here apply to all modes.
MODES = ("seeds", "interpolate", "style_mix", "video", "num", "replay", "source", "maps", "from",
         "project", "explore", "labels_from")
CHOICE = ("require", "min_area", "balance", "min_confidence")
ACT_ON = {
    **dict.fromkeys(("separate", "for_labelling", "teacher"), ("seeds",)),
    "seeds": ("seeds", "video", "from"), "samples": ("maps", "from"),
    "steps": ("interpolate", "video", "project"), "space": ("video", "project"),
    **dict.fromkeys(("fps", "grid"), ("video",)),
    **dict.fromkeys(("film", "lpips"), ("project",)),
    **dict.fromkeys(("num_images", "seed"), ("project", "source")),
    "row_seeds": ("style_mix",), "col_seeds": ("style_mix",), "col_styles": ("style_mix",),
    "first_seed": ("num", "from"),
    **dict.fromkeys((*CHOICE, "max_tries", "min_region", "format", "keep_padding", "shards",
                     "runner"), ("num",)), "index": ("replay",),
    **dict.fromkeys(("direction", "garment", "own_scale", "poses"), ("source",)),
    **dict.fromkeys(("trunc", "noise"), (*MODES[:5], "from")),
    "label": (*MODES[:5], "from", "project"),
    "minibatch": (*MODES[:5], "source", "maps", "from", "project"),
    **dict.fromkeys(("network", "results"), MODES[:11])}


def parse_options(argv: list[str], description: str = "",
                  examples: str = "") -> argparse.Namespace:
    """Parse the command line; `given` of the result holds the options that differ from their
    defaults.

    Raises:
        UserError: options do not go together, or have no effect.
    """
    parser = cli.argument_parser(description, examples)
    add = parser.add_argument
    add("--network", metavar="SPEC", help="snapshot file, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where the run directories are")
    add("--out", metavar="DIR", help="folder to write to (default: one below generated/)")
    add("--trunc", type=cli.psi, metavar="PSI", help="truncation of the first 8 layers: 1 is none, "
        "as in training; 0 gives the average image (default: 1 for --num, --from and "
        "--for-labelling, else 0.7)")
    add("--noise", default="random", choices=("random", "const"), help="random: drawn from each "
        "sample's seed; const: the network's own noise, the same for all samples")
    add("--label", type=cli.label, metavar="K", help="label for a conditional network: a class, "
        "counted from 0, or as many numbers as its labels have: 0.1,0,0.9")
    add("--minibatch", type=cli.positive_int, default=8, metavar="N", help="samples made at a "
        "time; larger minibatches are faster if memory allows")
    add("--seeds", type=cli.seeds, help="seeds of the grid (default: 0-35); for --video, the seeds "
        "that it passes through (default: 0-7)")
    add("--separate", action="store_true", help="write a file per seed instead of a grid: "
        "seed0000.png, and, if the network draws maps, labels/seed0000.png (0 background, 1..C the "
        "classes)")
    add("--for-labelling", action="store_true", help="write a file per seed instead of a grid, to "
        "be labelled, with what train.py --variant=decoder needs to make it again")
    add("--teacher", metavar="SPEC", help="for --for-labelling: segmentation network that labels "
        "the pictures (snapshot, run directory or run number)")
    _add_modes(parser)
    _add_translation_options(parser)
    _add_sheet_options(parser)
    _add_pair_options(parser)
    _add_projection_options(parser)
    # Find the given options before setting the defaults that depend on other options.
    own, of_runner = cli.split_argv(argv)
    options, defaults = parser.parse_args(own), vars(parser.parse_args([]))
    options.of_runner = of_runner
    options.given = {name for name in defaults if vars(options)[name] != defaults[name]}
    _set_defaults(options)
    check_options(options)
    return options


def _set_defaults(options):
    """Set the options whose defaults depend on the mode."""
    is_video = options.video is not None
    if options.steps is None:
        options.steps = 9 if options.interpolate is not None else 60 if is_video else None
    if options.seeds is None:
        options.seeds = cli.seeds("0-7" if is_video else "0-35")
    if options.space is None:
        options.space = "w" if is_video else "w+"
    if options.separate or options.for_labelling or getattr(options, "from") is not None:
        options.seeds = list(dict.fromkeys(options.seeds))  # files are named after them
    if options.trunc is None:
        pairs = options.num, getattr(options, "from"), options.for_labelling or None
        options.trunc = 0.7 if pairs == (None, None, None) else 1.0


def _add_modes(parser):
    """Add the options that choose a mode; a grid of seeds needs none of them."""
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--interpolate", type=cli.seeds, metavar="SEED,SEED", help="interpolate "
                       "between the latents of two seeds: images above, maps below")
    modes.add_argument("--style-mix", action="store_true", help="combine the styles of row seeds "
                       "and column seeds")
    modes.add_argument("--video", nargs="?", const="mp4", choices=films.FORMATS, help="write a "
                       "film that passes through --seeds in order and ends as it begins: image "
                       "above map; mp4 (needs requirements-video.txt) if no format is named")
    modes.add_argument("--num", type=cli.positive_int, metavar="N", help="write N pairs: images, "
                       "label maps, overlays, COCO annotations; run again to continue")
    modes.add_argument("--replay", metavar="FILE", help="make a sample of this samples.jsonl again")
    modes.add_argument("--source", metavar="DIR", help="use the photos in this folder: write their "
                       "label maps with a segmentation network; translate them, or pairs, with a "
                       "CycleGAN; or draw their people in the poses of --poses; run again to "
                       "continue")
    modes.add_argument("--maps", metavar="DIR", help="draw photos from the label maps in this "
                       "folder (PNGs and classes.txt, or pairs), data set or split of one "
                       "(DIR/val), with a network of train.py --variant=pix2pix; run again to "
                       "continue")
    modes.add_argument("--labels-from", metavar="PATH", help="import labels for the pictures that "
                       "--for-labelling wrote to --out: a COCO file, or a folder of PNG masks with "
                       "a list of classes")
    modes.add_argument("--explore", action="store_true", help="serve a page to browsers on this "
                       "machine for trying the networks of --results: seeds, truncation, styles, "
                       "classes, hand-painted maps, photos (requirements-explore.txt)")
    modes.add_argument("--project", metavar="PATH", help="find the w from which the network draws "
                       "these photos: a folder, a file, a data set (its training split, or the "
                       "folder of another split), a folder of pairs; run again to continue")


def _add_translation_options(parser):
    add = parser.add_argument
    add("--from", metavar="SPEC", help="draw photos from the maps that this network (snapshot, run "
        "directory or run number) draws for --seeds, or for --num seeds from --first-seed on")
    add("--samples", type=cli.positive_int, default=1, metavar="N", help="for --maps and --from: "
        "photos per map, which differ by dropout")
    add("--direction", choices=("AtoB", "BtoA"), default="AtoB", help="for --source with a "
        "CycleGAN: from the photos of its training's --data to those of --target, or back")
    add("--garment", type=lambda text: text.split(","), metavar="CLASSES", help="for --source with "
        "a CycleGAN and a folder of pairs: translate these classes and nothing else (default: "
        "those of its training)")
    add("--own-scale", action="store_true", help="for --source with a CycleGAN: translate photos "
        "of any size at their own scale (default: resized to the size of its training, and back)")
    add("--poses", metavar="PATH", help="for --source with a network of train.py --variant=pose: "
        "the poses in which every photo's person is drawn; as for --source, a data set with "
        "keypoints, a split of one (DIR/val) or a folder of photos with "
        "annotations/person_keypoints.json; or such a COCO keypoint file alone")


def _add_sheet_options(parser):
    add = parser.add_argument
    add("--steps", type=cli.positive_int, metavar="N", help="for --interpolate: pictures, "
        "including those of both seeds (default: 9); for --video: frames from one seed to the next "
        "(default: 60); for --project: steps of the search (default: 1000)")
    add("--space", choices=("w", "w+", "z"), help="for --project: w+ (default), one w per layer, "
        "as in Image2StyleGAN; or w, one for all layers, with noise maps, as in StyleGAN2's "
        "projector; for --video: the space in which it moves smoothly, w (default) or z")
    add("--row-seeds", type=cli.seeds, default="0-3",
        help="for --style-mix: seeds of the left column")
    add("--col-seeds", type=cli.seeds, default="4-8", help="for --style-mix: seeds of the top row")
    add("--col-styles", type=cli.seeds, default="0-3", metavar="LAYERS", help="for --style-mix: "
        "layers whose styles come from the column; 0-3 (4x4, 8x8) set pose and shape, the last "
        "ones colours")
    add("--index", type=cli.natural, default=0, metavar="K", help="for --replay: line of the file, "
        "counted from 0")
    add = parser.add_argument_group("for --video").add_argument
    add("--fps", type=cli.positive_int, default=30, metavar="N", help="frames per second")
    add("--grid", type=cli.grid, default="1x1", metavar="COLUMNSxROWS", help="films side by side "
        "in one file: each passes through its part of --seeds")


def _add_pair_options(parser):
    add = parser.add_argument_group("for --num").add_argument
    add("--first-seed", type=cli.seed, default=0, metavar="SEED", help="the first seed to try")
    add("--require", type=lambda text: text.split(","), metavar="CLASSES", help="accept only pairs "
        "that show all of these classes: skirt,scarf/tie")
    add("--min-area", type=cli.share, default=0.0, metavar="SHARE", help="share of the photo from "
        "which a class counts as shown: 0.5%%; if not given, one pixel is enough")
    add("--balance", type=_balance, default=0.0, metavar="SHARE", help="choose pairs so that each "
        "class is shown by at least this share of them: 10%%; or only these classes, each with its "
        "own share: bag:10%%,skirt:20%%")
    add("--min-confidence", type=cli.share, default=0.0, metavar="X", help="accept only pairs "
        "whose maps have at least this confidence, from 0 to 1 (docs/pictures.md)")
    add("--min-region", type=cli.positive_int, default=1, metavar="PIXELS", help="regions of maps "
        "with fewer pixels take the label around them: 2 removes single stray pixels")
    add("--max-tries", type=cli.positive_int, default=1000, metavar="N", help="give up when this "
        "many seeds in a row are rejected; the same command with a larger N continues")
    add("--format", choices=("folder", "tfrecords"), default="folder", help="folder: PNGs and COCO "
        "annotations; tfrecords: a data set for train.py --data")
    add("--keep-padding", action="store_true", help="write the padding around photos, which a "
        "folder omits if all photos of the data set had one aspect ratio")
    add("--shards", type=cli.positive_int, metavar="N", help="write N self-contained parts, whose "
        "bytes depend on the seeds and options alone; if not given, tfrecords get one per 1,000 "
        "pairs, a folder none")
    add("--runner", metavar="NAME", help="make shards on Apache Beam (requirements-beam.txt): "
        "DirectRunner, FlinkRunner, ...; arguments after -- are the runner's options")


def _balance(text):
    """Return a share, '10%' -> 0.1, or the shares of classes, 'bag:10%,skirt:20%' ->
    {'bag': 0.1, 'skirt': 0.2}."""
    if ":" not in text:
        return cli.share(text)
    parts = [part.rpartition(":") for part in text.split(",")]
    if not all(name.strip() for name, _, _ in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share for all classes such as 10%, "
                                         "or classes with shares such as bag:10%,skirt:20%")
    if len({name.strip() for name, _, _ in parts}) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r}: names a class twice; give each one share")
    return {name: cli.share(share) for name, _, share in parts}


def _add_projection_options(parser):
    add = parser.add_argument_group("for --project").add_argument
    add("--num-images", type=cli.positive_int, metavar="N", help="use only N photos, and with "
        "--poses N photos and N poses, chosen by --seed as in train.py (default: all)")
    add("--seed", type=cli.seed, default=1000, help="for --num-images: seed of the choice; with "
        "one seed, a larger N adds photos to those of a smaller N")
    add("--film", action="store_true", help="write films/<photo>.webp: how the picture approaches "
        "the photo")
    add("--lpips", metavar="PATH", help="weights of VGG16 and LPIPS, as .npz (default: cache, pip)")


def check_options(options: argparse.Namespace) -> None:
    """Raise UserError if options do not go together, or if one that was given has no effect."""
    if options.interpolate is not None and len(options.interpolate) != 2:
        raise UserError("--interpolate: expected two seeds, such as 4,9")
    if options.interpolate is not None and not 2 <= options.steps <= MAX_GRID:
        raise UserError(f"--steps: at least 2 pictures, one per seed, and {MAX_GRID} at most")
    if options.style_mix and len(options.row_seeds) * len(options.col_seeds) > MAX_GRID:
        raise UserError(f"--row-seeds: {len(options.row_seeds)} rows of {len(options.col_seeds)} "
                        f"--col-seeds; a picture has room for {MAX_GRID} samples")
    if options.num is not None and options.num > MAX_PAIRS:
        raise UserError(f"--num: at most {MAX_PAIRS} pairs")
    if options.num is not None and options.first_seed + options.num - 1 > MAX_SEED:
        raise UserError(f"--num: the last seed would be above {MAX_SEED}")
    if options.num is not None and (options.shards or 1) > min(options.num, MAX_SHARDS):
        raise UserError(f"--shards: at most one for each pair, and at most {MAX_SHARDS}")
    for name in ("source", "maps", "project"):
        place = getattr(options, name)
        if place and options.out and Path(place).resolve().is_relative_to(
                Path(options.out).resolve()):
            raise UserError(f"--out={options.out}: is the folder of --{name}, or contains it; "
                            "choose another one")
    # The mode, and the options that have no effect in it.
    chosen = [m for m in MODES[1:] if getattr(options, m) not in (None, False)]
    mode = "from" if "from" in chosen else (chosen or ["seeds"])[0]
    shown = {mode: f"--{mode.replace('_', '-')}" for mode in MODES} | {"seeds": "a grid of seeds"}
    is_chosen = any(getattr(options, name) for name in CHOICE)
    in_shards = options.shards is not None or options.format == "tfrecords"
    cli.refuse_idle(options.given, [
        *(IdleRule([name], mode not in modes, f"it is for {', '.join(shown[m] for m in modes)}")
          for name, modes in ACT_ON.items()),
        IdleRule(["from"], set(chosen) - {"num", "from"}, "it goes with --seeds or --num "
                 f"alone, not with {shown[chosen[0]] if chosen else ''}"),
        IdleRule(["seeds"], options.num is not None, "--num counts from --first-seed on"),
        IdleRule(["first_seed"], options.num is None, "it is for --num"),
        IdleRule(["separate"], options.for_labelling, "--for-labelling writes a file per seed"),
        IdleRule(["seed"], options.num_images is None, "it chooses the photos of --num-images"),
        IdleRule(["teacher"], not options.for_labelling, "it labels what --for-labelling writes"),
        IdleRule(["min_area"], not (options.require or options.balance),
                 "it is for --require and --balance"),
        IdleRule(["max_tries"], not is_chosen, "no pair is rejected"),
        IdleRule(["minibatch"], options.num is not None and (is_chosen or in_shards), "pairs that "
                 "are chosen, or written in shards, are made 16 at a time, so that they are the "
                 "same everywhere"),
        IdleRule(["minibatch"], options.own_scale, "--own-scale translates photos one by one"),
        IdleRule(["keep_padding"], options.format == "tfrecords", "images of a data set are square "
                 "and keep it"),
        IdleRule(["runner"], not in_shards, "it makes shards: give --shards")])
    # What the mode needs, or does not accept.
    if options.project is not None and options.space == "z":
        raise UserError("--space=z: it is for --video; --project searches in w or w+")
    if options.video is not None:
        _check_video(options)
    if options.labels_from is not None and options.out is None:
        raise UserError("--out: missing: the folder that --for-labelling wrote to")
    cli.check_runner(options.runner, options.of_runner)
    for name in ("source", "poses", "maps", "project"):  # checked before a network is loaded
        place = getattr(options, name)
        if place is not None and not Path(place).exists():
            raise UserError(f"--{name}={place}: no such file or folder")


def _check_video(options):
    columns, rows = options.grid
    count, loops = len(options.seeds), columns * rows
    if options.space == "w+":
        raise UserError("--space=w+: it is for --project; --video moves in w or z")
    if count % loops or count < 2 * loops:
        raise UserError(f"--seeds: {count} seeds for {columns}x{rows} films; all films need the "
                        "same number of seeds, and at least 2")
    fastest = films.MAX_FPS[options.video]
    if options.fps > fastest:
        raise UserError(f"--fps={options.fps}: a film in {options.video} has {fastest} frames a "
                        "second at most")


def out_folder(network: Any, options: argparse.Namespace, subfolder: str = "") -> Path:
    """Return the folder to write a network's pictures to.

    Raises:
        UserError: it is a file.
    """
    default = Path("generated", f"{network.path.parent.name}-{network.path.stem}", subfolder)
    out = Path(options.out) if options.out is not None else default
    refuse_file(out)
    return out


def refuse_file(out: Path) -> None:
    """Raise UserError if the folder to write to is a file."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; give a folder")
