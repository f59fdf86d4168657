"""The modes of generate.py that start from photos or maps: label maps of photos, translated photos,
people in other poses, photos drawn from maps."""

import argparse
from pathlib import Path

from dnnlib import cli, suggestions
from dnnlib.cli import IdleRule
from dnnlib.data.coco import KEYPOINTS_FILE
from dnnlib.data.labelled import choose_numbers, pair_folders
from dnnlib.util import UserError
from generation import labelling, posing, retexturing, translation
from generation.options import out_folder
from training.cycle.translator import TILE, CycleTranslator
from training.pose.reposer import Reposer
from training.sampler import Sampler
from training.segmentation.labeller import Labeller
from training.snapshot_header import is_cyclegan, is_reposer
from training.snapshots import find_snapshot, read_header
from training.translation.translator import Translator


def use_photos(options: argparse.Namespace) -> int:
    """Write label maps of photos, translated photos, or people in other poses, depending on the
    kind of network. Return the exit status."""
    header = read_header(find_snapshot(options.network, options.results))
    cli.refuse_idle(options.given, [
        IdleRule(["direction", "garment", "own_scale"], not is_cyclegan(header),
                 "it is for a CycleGAN"),
        IdleRule(["poses", "num_images"], not is_reposer(header),
                 "it is for a network of --variant=pose")])
    if is_cyclegan(header):
        return _translate_photos(options)
    return _pose_people(options) if is_reposer(header) else _label_photos(options)


def _pose_people(options):
    """Write people in other poses. Return the exit status."""
    if options.poses is None:
        raise UserError("--poses: missing: the poses to draw the people of --source in")
    reposer = Reposer.load(options.network, options.results, options.minibatch)
    choices = []  # the people, and the poses to draw them in
    for name in ("source", "poses"):
        figures = posing.open_figures(Path(getattr(options, name)), reposer.fit)
        if (options.num_images or 0) > len(figures.names):
            raise UserError(f"--num-images={options.num_images}: {getattr(options, name)} has "
                            f"{len(figures.names)}")
        choices.append(posing.Choice(
            figures, choose_numbers(len(figures.names), options.num_images, options.seed)))
    out = out_folder(reposer, options, "posed")
    made, kept = posing.PosingJob(reposer, *choices, out).run()
    print(f"{out}: {made} photos made, {kept} were there already; {out / posing.SHEET} shows them")
    print("Next: " + suggestions.command(
        "dataset_tool.py", "create_from_coco",
        f"--keypoints={out / KEYPOINTS_FILE}", f"--images={out / 'images'}",
        f"--resolution={reposer.resolution}", "--out=datasets/posed"))
    return 0


def _translate_photos(options):
    """Translate photos, or the garments of pairs. Return the exit status."""
    translator = CycleTranslator.load(
        options.network, options.results, direction=options.direction,
        minibatch=options.minibatch, own_scale=options.own_scale)
    # Labels of pairs show where a garment is; without pairs whole photos are translated.
    source, out = Path(options.source), out_folder(translator, options, options.direction)
    garment, of_pairs = options.garment or translator.garment, bool(pair_folders(source))
    if of_pairs and not garment:
        raise UserError(f"--garment: missing: which classes of the pairs in {source} are to be "
                        "translated; give their images/ as --source to translate whole photos")
    if options.garment and not of_pairs:
        raise UserError(f"--garment: {source} is not a folder of pairs, so it has no labels that "
                        "show the garment")
    if of_pairs:
        made, kept, left_out = retexturing.retexture_pairs(translator, source, garment, out)
    else:
        made, kept, left_out = retexturing.retexture_photos(translator, source, out)
    for line in left_out:
        print(f"left out: {line}")
    side = translator.resolution
    scale = (f"with a shorter side of {side} pixels" if translator.fit == "crop"
             else f"at {side}x{side}")
    print("photos were translated at their own scale, those of more than "
          f"{TILE}x{TILE} pixels in tiles, each normalised by itself" if translator.own_scale else
          f"photos were translated {scale}, as in training, and resized to their own size; "
          "--own-scale translates them as they are")
    print(f"{out}: {made} photos translated, {kept} were there already; side by side in sheet.png")
    if of_pairs:
        print("Next: " + suggestions.command(
            "dataset_tool.py", "create_from_masks", f"--source={out}", f"--resolution={side}",
            "--out=datasets/retextured"))
    return 0


def _label_photos(options):
    """Write label maps of photos. Return the exit status."""
    labeller = Labeller.load(options.network, options.results, options.minibatch)
    source, out = Path(options.source), out_folder(labeller, options, "labels")
    written, kept, unreadable = labelling.label_photos(labeller, source, out, options.minibatch)
    for line in unreadable:
        print(f"left out: {line}")
    print(f"{out}: {written} label maps written, {kept} were there already")
    print("Next: " + suggestions.command(
        "dataset_tool.py", "create_from_masks", f"--images={source}", f"--masks={out / 'labels'}",
        f"--classes={out / 'classes.txt'}", "--out=datasets/labelled"))
    return 0


def draw_photos(options: argparse.Namespace) -> int:
    """Draw photos from label maps. Return the exit status."""
    translator = Translator.load(options.network, options.results, options.minibatch)
    # Maps come from files or a data set, or are drawn by another network.
    if options.maps is not None:
        maps = translation.open_maps(Path(options.maps), translator.fit)
    else:
        seeds = options.seeds if options.num is None else range(
            options.first_seed, options.first_seed + options.num)
        origin = find_snapshot(getattr(options, "from"), options.results)
        sampler = Sampler.load(origin, options.label)
        maps = translation.DrawnMaps(sampler, seeds, options.trunc, options.noise, translator.fit)
    out = out_folder(translator, options, "photos")
    made, kept, resized = translation.write_photos(translator, maps, options.samples, out)
    side = translator.resolution
    if resized:
        cut = "cut to their middle squares and " if translator.fit == "crop" else ""
        print(f"maps of other sizes were {cut}resized to {side}x{side} by nearest pixels")
    print(f"{out}: {made} photos made, {kept} were there already")
    print("Next: " + suggestions.command(
        "dataset_tool.py", "create_from_masks", f"--source={out}", f"--resolution={side}",
        "--out=datasets/photos-from-maps"))
    return 0
