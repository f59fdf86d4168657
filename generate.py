#!/usr/bin/env python3
"""Make pictures with a trained network: grids, interpolations, style mixes, labelled pairs."""

import shlex
from pathlib import Path

from dnnlib import util
from dnnlib.cli import (
    MAX_GRID,
    MAX_SEED,
    label,
    label_suffix,
    natural,
    numbers_name,
    positive,
    psi,
    seed,
    seeds,
)
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError

EXAMPLES = """\
  python generate.py                                          seeds 0-35 of the newest run's best
  python generate.py --network=3 --seeds=0-8,100 --trunc=1    run 3, no truncation
  python generate.py --seeds=0-9 --separate --out=pictures    pictures/seed0000.png, ...
  python generate.py --label=2                                a conditional network: class 2
  python generate.py --interpolate=4,9 --steps=10
  python generate.py --style-mix --row-seeds=0-3 --col-seeds=10-14 --col-styles=0-3
  python generate.py --num=50000 --out=datasets/generated     pairs; run again to continue
  python generate.py --replay=datasets/generated/samples.jsonl --index=17 --out=again
  python dataset_tool.py create_modanet --source=datasets/generated --out=datasets/modanet-generated
"""
MAX_PAIRS = 10_000_000  # in one folder, by the seven digits of their file names
MIN_SIDE = 128  # images below this many pixels are enlarged in pictures


def main(argv):
    """Parse options, load the network, make what was asked for."""
    options = parse_options(argv)
    # Imported here so that --help and wrong options answer at once.
    from generation.pairs import check_network, read_samples, recipe_of
    from training.sampler import Sampler
    from training.snapshots import find_snapshot

    record, label = None, options.label
    if options.replay is not None:
        record = pick(read_samples(options.replay), options.index, options.replay)
    spec = record["network"] if record is not None and options.network is None else options.network
    path = find_snapshot(spec, options.results)
    if record is not None:
        check_network(record, path)
        label = recipe_of(record).class_label
    sampler = Sampler(path, label)
    classes = ", ".join(sampler.classes) or "none: it draws no maps (RGB only)"
    print(f"{sampler.path}: {sampler.resolution}x{sampler.resolution}, "
          f"digest {sampler.digest[:12]}, classes: {classes}"
          + (f", label {sampler.label} of {sampler.label_size}" if sampler.label_size else ""))
    if record is not None:
        return make_again(sampler, record, options)
    if options.num is not None:
        return make_pairs(sampler, options)
    if options.separate:
        return make_files(sampler, options)
    return make_picture(sampler, options)


def parse_options(argv):
    """The command line."""
    parser = util.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--network", metavar="SPEC", help="snapshot file, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where the run directories are")
    add("--out", metavar="DIR", help="folder to write to (default: one below generated/)")
    add("--trunc", type=psi, default=0.7, metavar="PSI", help="truncation of the first 8 "
        "layers: 1 is none, as in training; 0 is the average image")
    add("--noise", default="random", choices=("random", "const"), help="random: drawn from each "
        "sample's seed; const: the network's own, equal for all samples")
    add("--label", type=label, metavar="K", help="what a conditional network draws: a class, from "
        "0, or as many numbers as its labels have: 0.1,0,0.9")
    add("--minibatch", type=positive, default=8, metavar="N", help="samples made at a time; "
        "has no influence on them")
    add("--seeds", type=seeds, default="0-35", help="samples of the grid")
    add("--separate", action="store_true", help="instead of a grid a file per seed: seed0000.png, "
        "and of networks with maps labels/seed0000.png (0 background, 1..C the classes)")
    add_modes(parser)
    options = parser.parse_args(argv)
    check_options(parser, options)
    return options


def add_modes(parser):
    """The pictures other than a grid of seeds, and their options."""
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--interpolate", type=seeds, metavar="SEED,SEED", help="the way from one "
                       "latent to the other: images above, maps below")
    modes.add_argument("--style-mix", action="store_true", help="styles of row seeds and column "
                       "seeds combined")
    modes.add_argument("--num", type=positive, metavar="N", help="write N pairs: images, label "
                       "maps, overlays, COCO annotations; run again to continue")
    modes.add_argument("--replay", metavar="FILE", help="make a sample of this samples.jsonl again")
    add = parser.add_argument
    add("--steps", type=positive, default=9, metavar="N", help="for --interpolate: pictures, with "
        "those of both seeds")
    add("--row-seeds", type=seeds, default="0-3", help="for --style-mix: seeds of the left column")
    add("--col-seeds", type=seeds, default="4-8", help="for --style-mix: seeds of the top row")
    add("--col-styles", type=seeds, default="0-3", metavar="LAYERS", help="for --style-mix: layers "
        "taken from the column; 0-3 (4x4, 8x8) are pose and shape, the last ones colours")
    add("--first-seed", type=seed, default=0, metavar="SEED", help="for --num: the first pair's")
    add("--index", type=natural, default=0, metavar="K", help="for --replay: line, from 0")
    add("--dry-run", action="store_true", help="for --num: say what would be made, write nothing")


def check_options(parser, options):
    """Leave through the parser's error where options do not go together."""
    if options.interpolate is not None and len(options.interpolate) != 2:
        parser.error("argument --interpolate: expected two seeds, such as 4,9")
    if not 2 <= options.steps <= MAX_GRID:
        parser.error(f"argument --steps: 2 pictures at least, those of both seeds, and {MAX_GRID} "
                     "at most")
    if options.num is not None and options.num > MAX_PAIRS:
        parser.error(f"argument --num: at most {MAX_PAIRS} pairs")
    if options.num is not None and options.first_seed + options.num - 1 > MAX_SEED:
        parser.error(f"argument --num: the last seed would be above {MAX_SEED}")
    if options.label is not None and options.replay is not None:
        parser.error("argument --label: --replay takes the label of the sample's record")
    if options.dry_run and options.num is None:
        parser.error("argument --dry-run: goes with --num only; the other pictures take seconds")
    check_idle(parser, options)


def check_idle(parser, options):
    """Leave through the parser's error where an option of one mode is given to another."""
    mode = next((mode for mode in ("interpolate", "style_mix", "num", "replay")
                 if getattr(options, mode) not in (None, False)), "seeds")
    modes = {"seeds": ("seeds",), "separate": ("seeds",), "steps": ("interpolate",),
             "row_seeds": ("style_mix",), "col_seeds": ("style_mix",),
             "col_styles": ("style_mix",), "first_seed": ("num",), "index": ("replay",),
             "trunc": ("seeds", "interpolate", "style_mix", "num"),
             "noise": ("seeds", "interpolate", "style_mix", "num")}
    defaults = parser.parse_args([])
    for name in modes:
        if mode not in modes[name] and getattr(options, name) != getattr(defaults, name):
            flags = [f"--{text.replace('_', '-')}" for text in (name, mode)]
            parser.error(f"argument {flags[0]}: has no effect on {flags[1]}")


def pick(records, index, path):
    """The record of a line. Raises UserError where the file has fewer."""
    if index >= len(records):
        raise UserError(f"--index={index}: {path} has {len(records)} samples, counted from 0")
    return records[index]


def out_folder(sampler, options, subfolder=""):
    """The folder to write to. Raises UserError where that is a file."""
    default = Path("generated") / f"{sampler.path.parent.name}-{sampler.path.stem}"
    default /= subfolder
    out = Path(options.out) if options.out is not None else default
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; a folder is wanted")
    return out


def make_picture(sampler, options):
    """One PNG: a grid of seeds, an interpolation or a style mix."""
    from dnnlib.data import pictures
    from generation import sheets

    how = options.trunc, options.noise, options.minibatch
    if options.interpolate is not None:
        name = "interpolate-{}-{}-steps{}".format(*options.interpolate, options.steps)
        sheet = sheets.interpolation(sampler, *options.interpolate, options.steps, *how)
    elif options.style_mix:
        chosen = options.row_seeds, options.col_seeds, options.col_styles
        name = "style-mix-rows{}-cols{}-layers{}".format(*map(numbers_name, chosen))
        sheet = sheets.style_mix(sampler, *chosen, *how)
    else:
        name = f"seeds-{numbers_name(options.seeds)}"
        sheet = sheets.seed_grid(sampler, options.seeds, *how)
    path = out_folder(sampler, options) / f"{name}{how_suffix(sampler, options)}.png"
    picture = sheet.draw(max(1, MIN_SIDE // sampler.resolution))
    picture = pictures.with_legend(picture, sampler.classes)
    pictures.save_png(path, picture)
    print(f"wrote {path} ({picture.shape[1]}x{picture.shape[0]})")
    return 0


def how_suffix(sampler, options):
    """What label, truncation and noise add to a name."""
    noise = "" if options.noise == "random" else f"-{options.noise}"
    return f"{label_suffix(sampler.label)}-trunc{options.trunc:g}{noise}"


def make_files(sampler, options):
    """One PNG per seed, and its label map in a folder beside it."""
    from generation import sheets

    out = out_folder(sampler, options, f"separate{how_suffix(sampler, options)}")
    sheets.write_files(sampler, options.seeds, out, options.trunc, options.noise, options.minibatch)
    maps = f", and their label maps in {out / 'labels'}" if sampler.classes else ""
    print(f"wrote {len(options.seeds)} pictures seed*.png in {out}{maps}")
    return 0


def make_pairs(sampler, options):
    """The bulk of pairs, or what it would take."""
    from generation import pairs

    out = out_folder(sampler, options, "pairs" + label_suffix(sampler.label))
    recipe = pairs.make_recipe(sampler, options.trunc, options.noise)
    wanted = range(options.first_seed, options.first_seed + options.num)
    if options.dry_run:
        print(pairs.describe(sampler, recipe, wanted, out))
        return 0
    made, kept = pairs.write_pairs(sampler, recipe, wanted, out, options.minibatch)
    print(f"{out}: {made} made, {kept} were there already")
    if sampler.classes:
        command, name = ("create_modanet", "modanet-generated") \
            if sampler.classes == MODANET_CLASSES else ("create_from_masks", "generated-masks")
        print(f"Next: python dataset_tool.py {command} --source={shlex.quote(str(out))} "
              f"--resolution={sampler.resolution} --out=datasets/{name}")
    return 0


def make_again(sampler, record, options):
    """The sample of a record, compared with what the record says; status 1 where it differs."""
    from generation import pairs

    out = out_folder(sampler, options, "replay" + label_suffix(sampler.label))
    same = pairs.replay(sampler, record, out)
    difference = ("but pixels differ from the record: another machine, library version or number "
                  "of threads rounds differently")
    print(f"{out}: seed {record['seed']} made again, "
          f"{'every pixel as recorded' if same else difference}")
    return 0 if same else 1


if __name__ == "__main__":
    util.run_main(main)
