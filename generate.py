#!/usr/bin/env python3
"""Make pictures with a trained network: grids, interpolations, style mixes, labelled pairs."""

import shlex
from pathlib import Path

from dnnlib import cli
from dnnlib.cli import MAX_GRID, MAX_SEED, IdleRule, label_suffix, numbers_name
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
# The modes on which options have an effect; options that are not here act on all of them.
MODES = ("seeds", "interpolate", "style_mix", "num", "replay")
ACT_ON = {
    "seeds": ("seeds",), "separate": ("seeds",), "steps": ("interpolate",),
    "row_seeds": ("style_mix",), "col_seeds": ("style_mix",), "col_styles": ("style_mix",),
    "first_seed": ("num",), "dry_run": ("num",), "index": ("replay",),
    **dict.fromkeys(("trunc", "noise", "label", "minibatch"), MODES[:-1])}


def main(argv):
    """Parse options, load the network, make what was asked for. Return the exit status."""
    options = parse_options(argv)
    # Imported here so that --help and wrong options answer at once.
    from generation import pairs
    from training.sampler import Sampler
    from training.snapshots import find_snapshot

    spec, label, record = options.network, options.label, None
    if options.replay is not None:
        records = pairs.read_samples(options.replay)
        if options.index >= len(records):
            raise UserError(f"--index={options.index}: {options.replay} has {len(records)} "
                            "samples, counted from 0")
        record = records[options.index]
        spec, label = spec or record["network"], pairs.recipe_of(record).class_label
    path = find_snapshot(spec, options.results)
    if record is not None:
        pairs.check_network(record, path)
    sampler = Sampler.load(path, label)
    classes = ", ".join(sampler.classes) or "none: it draws no maps (RGB only)"
    print(f"{sampler.path}: {sampler.resolution}x{sampler.resolution}, "
          f"digest {sampler.digest[:12]}, classes: {classes}"
          + (f", label {sampler.label} of {sampler.label_size}" if sampler.label_size else ""))
    if record is not None:
        out = out_folder(sampler, options, "replay" + label_suffix(sampler.label))
        same, result = pairs.replay(sampler, record, Path(options.replay).parent, out)
        print(f"{out}: seed {record['seed']} made again, {result}")
        return 0 if same else 1
    if options.num is not None:
        make_pairs(sampler, options)
    elif options.separate:
        make_files(sampler, options)
    else:
        make_picture(sampler, options)
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--network", metavar="SPEC", help="snapshot file, run directory or run number "
        "(default: the newest run's best snapshot)")
    add("--results", default="results", metavar="DIR", help="where the run directories are")
    add("--out", metavar="DIR", help="folder to write to (default: one below generated/)")
    add("--trunc", type=cli.psi, default=0.7, metavar="PSI", help="truncation of the first 8 "
        "layers: 1 is none, as in training; 0 is the average image")
    add("--noise", default="random", choices=("random", "const"), help="random: drawn from each "
        "sample's seed; const: the network's own, equal for all samples")
    add("--label", type=cli.label, metavar="K", help="what a conditional network draws: a class, "
        "from 0, or as many numbers as its labels have: 0.1,0,0.9")
    add("--minibatch", type=cli.positive_int, default=8, metavar="N", help="samples made at a "
        "time; more are faster if there is memory for them")
    add("--seeds", type=cli.seeds, default="0-35", help="samples of the grid")
    add("--separate", action="store_true", help="instead of a grid a file per seed: seed0000.png, "
        "and of networks with maps labels/seed0000.png (0 background, 1..C the classes)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--interpolate", type=cli.seeds, metavar="SEED,SEED", help="the way from "
                       "one latent to the other: images above, maps below")
    modes.add_argument("--style-mix", action="store_true", help="styles of row seeds and column "
                       "seeds combined")
    modes.add_argument("--num", type=cli.positive_int, metavar="N", help="write N pairs: images, "
                       "label maps, overlays, COCO annotations; run again to continue")
    modes.add_argument("--replay", metavar="FILE", help="make a sample of this samples.jsonl again")
    add("--steps", type=cli.positive_int, default=9, metavar="N",
        help="for --interpolate: pictures, with those of both seeds")
    add("--row-seeds", type=cli.seeds, default="0-3",
        help="for --style-mix: seeds of the left column")
    add("--col-seeds", type=cli.seeds, default="4-8", help="for --style-mix: seeds of the top row")
    add("--col-styles", type=cli.seeds, default="0-3", metavar="LAYERS", help="for --style-mix: "
        "layers taken from the column; 0-3 (4x4, 8x8) are pose and shape, the last ones colours")
    add("--first-seed", type=cli.seed, default=0, metavar="SEED",
        help="for --num: the first pair's")
    add("--index", type=cli.natural, default=0, metavar="K", help="for --replay: line, from 0")
    add("--dry-run", action="store_true",
        help="for --num: print what would be made, write nothing")
    options = parser.parse_args(argv)
    defaults = vars(parser.parse_args([]))
    check_options(options, {name for name in defaults if vars(options)[name] != defaults[name]})
    return options


def check_options(options, given):
    """Raise UserError if options do not go together, or if one in `given` has no effect."""
    if options.interpolate is not None and len(options.interpolate) != 2:
        raise UserError("--interpolate: expected two seeds, such as 4,9")
    if not 2 <= options.steps <= MAX_GRID:
        raise UserError(f"--steps: 2 pictures at least, of both seeds, and {MAX_GRID} at most")
    if options.num is not None and options.num > MAX_PAIRS:
        raise UserError(f"--num: at most {MAX_PAIRS} pairs")
    if options.num is not None and options.first_seed + options.num - 1 > MAX_SEED:
        raise UserError(f"--num: the last seed would be above {MAX_SEED}")
    mode = next((m for m in MODES[1:] if getattr(options, m) not in (None, False)), "seeds")
    shown = {mode: f"--{mode.replace('_', '-')}" for mode in MODES} | {"seeds": "a grid of seeds"}
    cli.refuse_idle(given, [
        IdleRule([name], mode not in modes, f"it is for {', '.join(shown[m] for m in modes)}")
        for name, modes in ACT_ON.items()])


def out_folder(sampler, options, subfolder=""):
    """Return the folder to write to. Raises UserError if that is a file."""
    default = Path("generated", f"{sampler.path.parent.name}-{sampler.path.stem}", subfolder)
    out = Path(options.out) if options.out is not None else default
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; a folder is wanted")
    return out


def make_picture(sampler, options):
    """Write one PNG: a grid of seeds, an interpolation or a style mix."""
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
    picture = pictures.with_legend(sheet.draw(max(1, MIN_SIDE // sampler.resolution)),
                                   sampler.classes)
    pictures.save_png(path, picture)
    print(f"wrote {path} ({picture.shape[1]}x{picture.shape[0]})")


def how_suffix(sampler, options):
    """Return what label, truncation and noise add to a name."""
    noise = "" if options.noise == "random" else f"-{options.noise}"
    return f"{label_suffix(sampler.label)}-trunc{options.trunc:g}{noise}"


def make_files(sampler, options):
    """Write one PNG per seed, and its label map in a folder beside it."""
    from generation import sheets

    out = out_folder(sampler, options, f"separate{how_suffix(sampler, options)}")
    sheets.write_files(sampler, options.seeds, out, options.trunc, options.noise, options.minibatch)
    maps = f", and their label maps in {out / 'labels'}" if sampler.classes else ""
    print(f"wrote {len(options.seeds)} pictures seed*.png in {out}{maps}")


def make_pairs(sampler, options):
    """Write pairs in bulk, or print what it would take."""
    from generation import pairs

    out = out_folder(sampler, options, "pairs" + label_suffix(sampler.label))
    recipe = pairs.make_recipe(sampler, options.trunc, options.noise)
    wanted = range(options.first_seed, options.first_seed + options.num)
    if options.dry_run:
        print(pairs.describe_work(sampler, recipe, wanted, out, options.minibatch))
        return
    made, kept = pairs.write_pairs(sampler, recipe, wanted, out, options.minibatch)
    print(f"{out}: {made} made, {kept} were there already")
    if sampler.classes:
        command, name = ("create_modanet", "modanet-generated") \
            if sampler.classes == MODANET_CLASSES else ("create_from_masks", "generated-masks")
        print(f"Next: python dataset_tool.py {command} --source={shlex.quote(str(out))} "
              f"--resolution={sampler.resolution} --out=datasets/{name}")


if __name__ == "__main__":
    cli.run_main(main)
