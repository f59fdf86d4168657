#!/usr/bin/env python3
"""Make pictures with a trained network: grids, labelled pairs, maps of photos, photos from maps,
people in other poses; or open a page to try it on."""

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dnnlib import cli, suggestions, util
from dnnlib.cli import MAX_SEED, label_suffix, numbers_name
from dnnlib.data import films
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError
from generation.options import CHOICE, out_folder, parse_options, refuse_file

if TYPE_CHECKING:
    from generation.selection import Selection
    from training.sampler import Sampler

EXAMPLES = """\
  python generate.py                                          seeds 0-35 of the newest run's best
  python generate.py --network=3 --seeds=0-8,100 --trunc=1    run 3, no truncation
  python generate.py --seeds=0-9 --separate --out=pictures    pictures/seed0000.png, ...
  python generate.py --label=2                                a conditional network: class 2
  python generate.py --interpolate=4,9 --steps=10
  python generate.py --video --seeds=0-7                      a film through eight seeds
  python generate.py --video=gif --seeds=0-15 --grid=2x2      four such films side by side
  python generate.py --style-mix --row-seeds=0-3 --col-seeds=10-14 --col-styles=0-3
  python generate.py --explore                                a page to try all of this on
  python generate.py --num=50000 --out=datasets/generated     pairs; run again to continue
  python generate.py --num=1000 --require=scarf/tie,skirt --min-area=0.5%
  python generate.py --num=5000 --balance=10% --min-confidence=0.8
  python generate.py --num=50000 --format=tfrecords --out=datasets/records    for train.py --data
  python generate.py --num=1000000 --shards=256 --runner=DirectRunner --out=pairs -- \\
      --direct_running_mode=multi_processing --direct_num_workers=8
  python generate.py --replay=datasets/generated/samples.jsonl --index=17 --out=again
  python dataset_tool.py create_modanet --source=datasets/generated --out=datasets/modanet-generated
  python generate.py --network=5 --source=photos --out=maps   a segmentation network: label maps
  python generate.py --network=7 --source=photos --direction=BtoA    a CycleGAN, from B to A
  python generate.py --network=7 --source=datasets/generated --garment=outer --out=textures
  python generate.py --network=8 --source=people --poses=poses.json --out=posed    in other poses
  python generate.py --network=6 --maps=edited --out=photos   photos from label maps
  python generate.py --network=6 --from=3 --seeds=0-99 --samples=2    from maps that run 3 draws
  python generate.py --seeds=0-19 --for-labelling --out=twenty    pictures for an annotation tool
  python generate.py --labels-from=annotations.json --out=twenty  its labels, for train.py
  python generate.py --project=photos --out=projected      real photos, projected into the network
  python generate.py --project=datasets/mine --num-images=20 --space=w --film --out=twenty
"""
MIN_SIDE = 128  # images below this many pixels are enlarged in pictures


def main(argv: list[str]) -> int:
    """Parse options, load the network, make what was asked for. Return the exit status."""
    options = parse_options(argv, __doc__, EXAMPLES)
    # Modules that import TensorFlow are imported where they are used, so that --help and wrong
    # options answer at once.
    if options.labels_from is not None:
        return take_labels(options)
    if options.explore:
        return serve_page(options)
    if options.source is not None:
        from generation import of_pictures
        return of_pictures.use_photos(options)
    if options.maps is not None or getattr(options, "from") is not None:
        from generation import of_pictures
        return of_pictures.draw_photos(options)
    if options.replay is not None:
        return replay_pair(options)
    if options.video is not None:
        films.check_format(options.video)
    from training.snapshots import find_snapshot

    path = find_snapshot(options.network, options.results)
    chosen = make_selection(options, path)
    sampler = load_sampler(path, options.label)
    if options.num is not None:
        make = make_pairs if options.shards is None and options.format == "folder" else make_shards
        make(sampler, options, chosen)
    elif options.project is not None:
        make_projections(sampler, options)
    elif options.for_labelling:
        make_for_labelling(sampler, options)
    elif options.separate:
        make_files(sampler, options)
    elif options.video is not None:
        make_video(sampler, options)
    else:
        make_picture(sampler, options)
    return 0


def load_sampler(path: Path, label: int | tuple[float, ...] | None) -> "Sampler":
    """Return a snapshot's generator, and print its path, resolution, digest and classes."""
    from training.sampler import Sampler

    sampler = Sampler.load(path, label)
    classes = ", ".join(sampler.classes) or "none: it draws no maps (RGB only)"
    print(f"{sampler.path}: {sampler.resolution}x{sampler.resolution}, "
          f"digest {sampler.digest[:12]}, classes: {classes}"
          + (f", label {sampler.label} of {sampler.label_size}" if sampler.label_size else ""))
    return sampler


def make_selection(options: argparse.Namespace, path: Path) -> "Selection | None":
    """Return the Selection that the options ask for; None if all pairs are taken.

    Raises:
        UserError: the network at `path` cannot draw what is asked for. The snapshot's header shows
            this before the network is loaded.
    """
    if not any(getattr(options, name) for name in CHOICE):
        return None
    from generation.selection import Selection
    from training.snapshots import read_header

    chosen = Selection(tuple(options.require or ()), options.min_area, options.balance,
                       options.min_confidence)
    header = read_header(path)
    # Networks without Gs are refused when they are loaded.
    return chosen.match_classes(header["classes"]) if "Gs" in header["networks"] else chosen


def replay_pair(options: argparse.Namespace) -> int:
    """Make a recorded pair again. Return the exit status: 1 if it differs from the record."""
    from generation import pairs
    from training.snapshots import find_snapshot, read_header

    records = pairs.read_samples(options.replay)
    if options.index >= len(records):
        raise UserError(f"--index={options.index}: {options.replay} has {len(records)} samples, "
                        "counted from 0")
    record = records[options.index]
    if "retextured" in record:
        raise UserError(f"{options.replay}: a CycleGAN has changed these pairs since they were "
                        "made; replay a line of the pairs that it was given, and translate those "
                        "again with --source")
    path = find_snapshot(options.network or record["network"], options.results)
    digest = read_header(path)["digest"]
    if record["digest"] != digest:
        raise UserError(f"the sample was made by a network with digest {record['digest'][:12]}, "
                        f"{path} has {digest[:12]}: name the right one with --network")
    sampler = load_sampler(path, pairs.recipe_of(record).class_label)
    out = out_folder(sampler, options, "replay" + label_suffix(sampler.label))
    same, result = pairs.replay(sampler, record, Path(options.replay).parent, out)
    print(f"{out}: seed {record['seed']} made again, {result}")
    return 0 if same else 1


def make_picture(sampler: "Sampler", options: argparse.Namespace) -> None:
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
    path = out_folder(sampler, options) / f"{name}{options_suffix(sampler, options)}.png"
    picture = pictures.with_legend(sheet.draw(max(1, MIN_SIDE // sampler.resolution)),
                                   sampler.classes)
    pictures.save_png(path, picture)
    print(f"wrote {path} ({picture.shape[1]}x{picture.shape[0]})")


def make_video(sampler: "Sampler", options: argparse.Namespace) -> None:
    """Write a film that passes through seeds, or a grid of such films in one."""
    from generation.videos import Video

    video = Video(sampler, options.seeds, options.grid, options.space, options.steps,
                  options.trunc, options.noise, options.minibatch)
    films.check_size(*video.size)
    grid = "" if options.grid == (1, 1) else "-grid{}x{}".format(*options.grid)
    name = (f"video-{numbers_name(options.seeds)}-{options.space}-steps{options.steps}"
            f"-fps{options.fps}{grid}{options_suffix(sampler, options)}.{options.video}")
    path = out_folder(sampler, options) / name
    films.save_film(path, util.progress(video.frames(), total=len(video), desc="frames",
                                        unit="frame"), len(video), options.fps)
    print("wrote {} ({}x{}, {} frames, {:.3g} s)".format(
        path, *video.size, len(video), len(video) / options.fps))


def options_suffix(sampler: "Sampler", options: argparse.Namespace) -> str:
    """Return what label, truncation and noise add to a file's name."""
    noise = "" if options.noise == "random" else f"-{options.noise}"
    return f"{label_suffix(sampler.label)}-trunc{options.trunc:g}{noise}"


def make_files(sampler: "Sampler", options: argparse.Namespace) -> None:
    """Write one PNG per seed, and its label map in a folder beside it."""
    from generation import sheets

    out = out_folder(sampler, options, f"separate{options_suffix(sampler, options)}")
    sheets.write_files(sampler, options.seeds, out, options.trunc, options.noise, options.minibatch)
    maps = f", and their label maps in {out / 'labels'}" if sampler.classes else ""
    print(f"wrote {len(options.seeds)} pictures seed*.png in {out}{maps}")


def make_for_labelling(sampler: "Sampler", options: argparse.Namespace) -> None:
    """Write pictures to be labelled and, if a teacher network is given, its labels."""
    from generation import annotation
    from training.segmentation.labeller import Labeller

    teacher = options.teacher and Labeller.load(options.teacher, options.results)
    out = out_folder(sampler, options, f"labelling{options_suffix(sampler, options)}")
    annotation.write_pictures(sampler, options.seeds, out, options.trunc, options.noise,
                              options.minibatch)
    print(f"{out}: {len(options.seeds)} pictures seed*.png to be labelled")
    if teacher:
        written, kept = annotation.label_by_teacher(teacher, out, options.minibatch)
        print(f"{out / 'labels'}: {written} label maps of {teacher.path}, {kept} were there")
        print_decoder_command(out, sampler.generator["path"])
    else:
        print(f"label them with any tool (docs/methods.md), then: python generate.py "
              f"--labels-from=EXPORT --out={shlex.quote(str(out))}")


def print_decoder_command(folder: Path, network: str | Path) -> None:
    """Print the command that trains a decoder on labelled pictures."""
    print("Next: " + suggestions.command("train.py", "--variant=decoder", f"--init-from={network}",
                                         f"--labels={folder}", *suggestions.device_options()))


def take_labels(options: argparse.Namespace) -> int:
    """Import the labels that an annotation tool exported. Return the exit status."""
    from generation import annotation
    from training.decoder.labels import Labelling

    out = Path(options.out)
    count = annotation.import_labels(Path(options.labels_from), out,
                                     lambda line: print(util.one_line(line)))  # names of files
    print(f"{out / 'labels'}: {count} label maps written")
    print_decoder_command(out, Labelling.read(out).network)
    return 0


def make_projections(sampler: "Sampler", options: argparse.Namespace) -> None:
    """Project photos into the network."""
    from dnnlib.data.labelled import choose_numbers
    from generation import projected_photos, projection
    from metrics.networks.lpips import Lpips

    settings = projection.PRESETS[options.space]
    settings = dataclasses.replace(settings, steps=options.steps or settings.steps)
    photos = projected_photos.open_photo_list(Path(options.project), sampler.resolution)
    if (options.num_images or 0) > len(photos):
        raise UserError(f"--num-images={options.num_images}: {options.project} has {len(photos)}")
    numbers = choose_numbers(len(photos), options.num_images, options.seed)
    out = out_folder(sampler, options, f"projected-{options.space}" + label_suffix(sampler.label))
    outcome = projected_photos.ProjectionJob(
        sampler, settings, Lpips(options.lpips), photos, numbers, out, options.minibatch,
        options.film).run()
    # Report the outcome.
    for line in outcome.unreadable:
        print(f"left out: {line}")
    print(f"{out}: {outcome.made} photos projected, {outcome.kept} were there already; "
          f"{out / projected_photos.SHEETS} shows them")
    if outcome.poor:
        listed = ", ".join(outcome.poor[:3]) + ", ..." * (len(outcome.poor) > 3)
        print(f"warning: {len(outcome.poor)} of {outcome.made + outcome.kept} are poor, with LPIPS "
              f"above {projected_photos.POOR_LPIPS:g}: {listed}; their "
              f"{'maps' if sampler.classes else 'labels'} mean little")
    if photos.classes:
        print_decoder_command(out, sampler.generator["path"])


def make_pairs(sampler: "Sampler", options: argparse.Namespace,
               chosen: "Selection | None") -> None:
    """Write pairs in bulk."""
    from generation import pairs
    from generation.selection import Request

    out = out_folder(sampler, options, "pairs" + label_suffix(sampler.label))
    recipe = pairs.make_recipe(sampler, options.trunc, options.noise, options.keep_padding,
                               options.min_region)
    # All seeds from the first on are taken, or tried until enough are accepted.
    seeds = range(options.first_seed, options.first_seed + options.num)
    minibatch = min(options.minibatch, options.num)
    request = Request(seeds, options.num, minibatch) if chosen is None else Request(
        range(options.first_seed, MAX_SEED + 1), options.num, selection=chosen,
        max_tries=options.max_tries)
    print(pairs.describe_box(sampler, recipe))
    made, kept, tally = pairs.write_pairs(sampler, recipe, request, out)
    print(f"{out}: {made} made, {kept} were there already")
    if tally is not None:
        print("\n".join(tally.lines(chosen, sampler.classes)))
    if sampler.classes:
        for line in pairs.describe_gaps(pairs.read_samples(out / pairs.SAMPLES), sampler.classes):
            print(line)
        command, name = ("create_modanet", "modanet-generated") \
            if sampler.classes == MODANET_CLASSES else ("create_from_masks", "generated-masks")
        print(f"Next: python dataset_tool.py {command} --source={shlex.quote(str(out))} "
              f"--resolution={sampler.resolution} --out=datasets/{name}")


def make_shards(sampler: "Sampler", options: argparse.Namespace,
                chosen: "Selection | None") -> None:
    """Write pairs in shards, here or on Apache Beam."""
    from generation import pairs, shards

    is_dataset = options.format == "tfrecords"
    out = out_folder(sampler, options, ("dataset" if is_dataset else "shards")
                     + label_suffix(sampler.label))
    count = options.shards or -(-options.num // shards.PAIRS_A_SHARD)
    job = shards.ShardJob(str(sampler.path), options.label, options.trunc, options.noise,
                          options.keep_padding, options.min_region, options.format, str(out),
                          options.first_seed, options.num, count, chosen, options.max_tries)
    recipe = job.make_recipe(sampler)
    if not is_dataset:
        print(pairs.describe_box(sampler, recipe))
    runner = None
    if options.runner is not None:
        from dnnlib.beam_runner import BeamRunner  # Beam need not be installed
        runner = BeamRunner(options.runner, options.of_runner)
    tally = shards.write_shards(job, sampler, recipe, runner)
    print(f"{out}: {options.num} pairs in {count} shard{'s' * (count > 1)}")
    if tally is not None:
        print("\n".join(tally.lines(chosen, sampler.classes)))
    if is_dataset:
        variant = "2d" if sampler.classes else "rgb"
        fitting = suggestions.training_options(options.num, sampler.resolution)
        print("Next: " + suggestions.command("train.py", f"--variant={variant}", f"--data={out}",
                                             *fitting))


def serve_page(options: argparse.Namespace) -> int:
    """Serve a page for trying out networks, until Ctrl-C. Return the exit status."""
    from generation.explore import server  # gradio need not be installed
    from generation.explore.networks import Networks, kind_of
    from training.snapshots import find_snapshot, read_header

    out = Path("generated" if options.out is None else options.out)
    refuse_file(out)
    path = None if options.network is None else find_snapshot(options.network, options.results)
    if path is not None:
        kind_of(read_header(path), path)  # raises UserError for what the page cannot show
    server.serve(Networks(options.results, path), out)
    return 0


if __name__ == "__main__":
    cli.run_main(main)
