"""Write labelled pairs in bulk, with COCO annotations and a record of how each sample was made.

    OUT/images/0000007.png     the picture
    OUT/labels/0000007.png     palette indices: 0 background, 1..C
    OUT/overlays/0000007.png
    OUT/classes.txt            names of the classes 1..C
    OUT/annotations/instances.json    annotations of all samples in the folder; with ModaNet's
                               classes the file is modanet2018_instances_train.json
    OUT/samples.jsonl          each sample's seed, options, confidence and network digest
    OUT/selection.json         if pairs are chosen: the criteria, numbers of pairs tried, accepted

The layout is ModaNet's own, which all create commands of dataset_tool.py read. A sample is complete
once its line is in samples.jsonl, which is written last.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib import util
from dnnlib.data import channels, coco, pictures
from dnnlib.data.class_list import write_class_list
from dnnlib.data.photo_names import leads_out
from dnnlib.util import UserError
from generation.resumable_folder import refuse_difference, refuse_strange_files
from generation.selection import (
    BLOCK,
    Request,
    SampleBatch,
    SampleRecipe,
    Tally,
    confidence,
    crop_to_box,
    make_samples,
    without_small_regions,
)
from training.sampler import NOISES, TRUNCATION_CUTOFF, Sampler, label_maps

SAMPLES, SELECTION = "samples.jsonl", "selection.json"
_SAVE_SEC = 1.0  # between two saves of selection.json
FOLDERS = {"image": "images", "label": "labels", "overlay": "overlays"}


def make_recipe(sampler: Sampler, trunc: float, noise: str, keep_padding: bool = False,
                min_region: int = 1) -> SampleRecipe:
    """Return the recipe for a sampler and the options. The padding around photos is not written,
    unless it is to be kept or is not known. Raises UserError if `min_region` is given for a network
    without maps."""
    if min_region > 1 and not sampler.classes:
        raise UserError("--min-region: the network draws no maps (RGB only)")
    whole = 0, 0, sampler.resolution, sampler.resolution
    box = None if keep_padding or sampler.content_box == whole else sampler.content_box
    return SampleRecipe(sampler.digest, sampler.resolution, sampler.fade, trunc, TRUNCATION_CUTOFF,
                        noise, sampler.label, box, min_region if min_region > 1 else None)


def describe_box(sampler: Sampler, recipe: SampleRecipe) -> str:
    """Return a line that says which part of the images is written."""
    if recipe.box is not None:
        left, top, right, bottom = recipe.box
        return f"pairs are {right - left}x{bottom - top}: without the padding around the photos"
    if not sampler.knows_padding:
        return ("pairs have the padding of the photos, if there is any: the snapshot does not say "
                "where the photos are (an official network's, or of an earlier version)")
    if sampler.content_box is None:
        return ("pairs have the padding of the photos, whose aspect ratios differed or are not "
                "known")
    return f"pairs are {sampler.resolution}x{sampler.resolution}, as the network draws them"


class Pair(NamedTuple):
    """One sample: rgb uint8 [H, W, 3], its label map uint8 [H, W], and the map's confidence; None
    if the network draws no maps."""

    seed: int
    rgb: np.ndarray
    label_map: np.ndarray
    confidence: float | None


def write_pairs(sampler: Sampler, recipe: SampleRecipe, request: Request,
                out: Path) -> tuple[int, int, Tally | None]:
    """Make the pairs of a request in folder `out`, except those that exist already; return how many
    were made, how many existed, and the tally of a selection.

    Raises UserError if `out` holds something else or samples of another recipe or selection,
    another process is writing into it, the disk is full, the network has diverged, or the selection
    gave up. Complete samples are kept.
    """
    tally, records = None, {}
    with (util.lock_directory(out, "writing pairs into it"),
          util.explain_disk_full(out, lambda: f"{len(records)} samples are complete; free some "
                                 "space and run the same command again: it continues")):
        records = open_folder(out, recipe, request)
        before = len(records)
        if request.selection:
            tally = _read_tally(out, request, records)
            # A killed run may have accepted more pairs than its tally counts: let that catch up.
            request = replace(request, num=max(request.num, before))
        util.remove_leftovers(out, [".*.tmp", "*/.*.tmp"])
        _keep_lines(out / SAMPLES, records)
        kept = before if tally else sum(seed in records for seed in request.seeds)
        (out / SAMPLES).touch()
        if sampler.classes:  # without the list, labels mean nothing
            write_class_list(out, sampler.classes)
        if not request.is_over(tally) if tally else kept < request.num:
            # The annotations will no longer cover all samples.
            coco.find_annotations(out).unlink(missing_ok=True)
            tally = _write_missing(sampler, recipe, request, out, records, tally, kept)
        if sampler.classes:
            _write_annotations(out, sampler.classes, records)
        if tally:
            request.check_found(tally, sampler.classes)
    return len(records) - before, kept, tally


def _keep_lines(path, records):
    """Rewrite a samples.jsonl if it has lines besides those of complete samples: a partial last
    line of a killed run, or lines of samples whose files are gone, which are made again."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records.values())
    if path.exists() and path.read_bytes() != lines.encode("utf-8", "backslashreplace"):
        util.atomic_write(path, lines)


def _write_missing(sampler, recipe, request, out, records, tally, kept):
    """Write the pairs that are not among `records`, and add them; return the tally.
    kept: how many pairs of the request exist."""
    def save():
        util.write_json(out / SELECTION, {"selection": request.identity(), **asdict(tally)})

    # The tally is saved at the beginning, from time to time, and at the end, even after an error.
    saved_sec = float("-inf")
    batches = make_samples(sampler, recipe, request, records.keys(), tally)
    with contextlib.ExitStack() as at_end:
        bar = at_end.enter_context(util.progress(total=request.num, initial=kept,
                                                 desc=request.title, unit="img"))
        if tally is not None:
            save()
            at_end.callback(save)
        for batch, made in write_behind(batches, sampler, recipe,
                                        lambda pair: write_pair(out, pair, sampler, recipe)):
            for record in made:
                util.append_jsonl(out / SAMPLES, record)
                records[record["seed"]] = record
            bar.update(len(made))
            if batch.tally is not None:
                tally = batch.tally
                bar.set_postfix_str(f"{tally.tried} tried", refresh=False)
                if time.monotonic() > saved_sec + _SAVE_SEC:
                    save()
                    saved_sec = time.monotonic()
    return tally


def write_behind(batches: Iterator[SampleBatch], sampler: Sampler, recipe: SampleRecipe,
                 write: Callable[[Pair], object]) -> Iterator[tuple[SampleBatch, list]]:
    """Yield each batch and what `write(pair)` returned for its samples, once all are on disk.
    Threads write them (compression releases the interpreter's lock) while the next minibatch is
    computed."""
    def finish(seed: int, image: np.ndarray, rgb: np.ndarray, label_map: np.ndarray) -> object:
        photo = crop_to_box(image[None], sampler.content_box)
        sureness = confidence(photo)[0] if sampler.classes else None
        return write(Pair(seed, rgb, label_map, sureness))

    with ThreadPoolExecutor() as pool:
        before, pending = None, []  # the batch that is being written, and its samples
        for batch in batches:
            rgbs, maps = to_pairs(crop_to_box(batch.images, recipe.box))
            if before is not None:
                yield before, [future.result() for future in pending]
            pending = [pool.submit(finish, *sample)
                       for sample in zip(batch.seeds, batch.images, rgbs, maps)]
            before = batch
        if before is not None:
            yield before, [future.result() for future in pending]


def open_folder(out: Path, recipe: SampleRecipe, request: Request) -> dict[int, dict]:
    """Return {seed: record} of the complete samples in a new or existing folder. Raises UserError
    if it holds other things, or samples made or chosen in another way."""
    path, records = out / SAMPLES, {}
    if not path.exists():
        refuse_strange_files(out, SAMPLES)
        return {}
    for record in read_samples(path):
        if "retextured" in record:
            raise UserError(f"--out={out}: holds pairs that a CycleGAN has changed since; choose "
                            "another folder")
        refuse_difference(out, asdict(recipe_of(record)), asdict(recipe), "samples made")
        if all((out / record[kind]).is_file() for kind in FOLDERS if kind in record):
            records[record["seed"]] = record
    if (out / SELECTION).exists() or path.stat().st_size:
        there = _read_selection(out)[0] if (out / SELECTION).exists() else {}
        wanted = request.identity() if request.selection else {}
        refuse_difference(out, there, wanted, "samples chosen")
    return records


def _read_tally(out, request, records):
    """Return the Tally of the selection in a folder; a new one if there is none, or if accepted
    pairs are missing: then all seeds are tried again, and existing pairs are kept."""
    if not (out / SELECTION).exists():
        return Tally()
    tally = _read_selection(out)[1]
    tried = request.seeds[:tally.tried]
    return tally if sum(seed in tried for seed in records) == tally.accepted else Tally()


def _read_selection(out):
    """Return (identity, Tally) of a folder's selection.json. Raises UserError if it is damaged."""
    content = util.read_json(out / SELECTION)
    try:
        return content.pop("selection"), Tally(**content)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{out / SELECTION}: damaged; choose another folder") from None


def read_samples(path: str | Path) -> list[dict]:
    """Return the records of a samples.jsonl, without a last line cut off by an interruption. Raises
    UserError for a missing file or any other broken line."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    content = Path(path).read_bytes()
    return [_parse_record(line, f"{path}, line {number}") for number, line in enumerate(
        content[:content.rfind(b"\n") + 1].splitlines(), 1)]


def _parse_record(line, where):
    """Return the record of a line of samples.jsonl. Raises UserError if the line is invalid."""
    try:
        record = json.loads(line)
        recipe = recipe_of(record)
        # Check for values that would fail later, or would name files elsewhere.
        label = recipe.class_label
        texts = {"digest", "network", "sha256", *(FOLDERS.keys() & record.keys())}
        is_label = (label is None or (type(label) is int and label >= 0)
                    or (type(label) is tuple and {int, float} >= {*map(type, label)} != set()
                        and np.isfinite(label).all()))
        sound = (is_label and type(recipe.resolution) is int
                 and (recipe.box is None or _is_part(recipe.box, recipe.resolution))
                 and (recipe.min_region is None or type(recipe.min_region) is int)
                 and type(record["seed"]) is int
                 and record["seed"] in range(np.iinfo(np.uint32).max + 1)
                 and recipe.noise in NOISES and np.isfinite([recipe.trunc, recipe.fade]).all()
                 and all(isinstance(text, str) for text in (
                     *(record[name] for name in texts), *record.get("present", [])))
                 and not any(leads_out(record[name]) for name in FOLDERS.keys() & record.keys())
                 and isinstance(record.get("retextured", []), list))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: not a sample's record ({util.one_line(error)})") from None
    if not sound:
        raise UserError(f"{where}: not a sample's record (a value is out of range)")
    return record


def _is_part(box, resolution):
    """Return whether a box is a part of an image: left, top, right, bottom."""
    if len(box) != 4 or not all(type(edge) is int for edge in box):
        return False
    left, top, right, bottom = box
    return 0 <= left < right <= resolution and 0 <= top < bottom <= resolution


def describe_gaps(records: Sequence[dict], classes: Sequence[str]) -> list[str]:
    """Return lines about maps that show no class, and about classes that no map shows."""
    records = [record for record in records if "present" in record]
    empty = sum(not record["present"] for record in records)
    shown = {name for record in records for name in record["present"]}
    absent = [name for name in classes if name not in shown]
    lines = []
    if empty:
        lines.append(f"warning: {empty} of {len(records)} pairs show no class: their maps are "
                     "background only")
    if shown and absent:
        lines.append(f"shown by none of {len(records)} pairs: {', '.join(absent)}")
    return lines


def recipe_of(record: dict) -> SampleRecipe:
    """Return the recipe in a record. A record has no `class_label` if its network takes no labels,
    no `box` if the whole image is written, and no `min_region` if maps are written as drawn.
    Raises KeyError for any other missing entry."""
    values = {"class_label": None, "box": None, "min_region": None, **record}
    for name in ("class_label", "box"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
    return SampleRecipe(**{name: values[name] for name in SampleRecipe.__dataclass_fields__})


def to_pairs(images: tf.Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rgb uint8 [N, H, W, 3], rounded as for the metrics, and the label maps uint8
    [N, H, W] of images float32 [N, H, W, 3 + C]."""
    return pictures.to_uint8_metrics(images[..., channels.RGB]), label_maps(images)


def write_pair(out: Path, pair: Pair, sampler: Sampler, recipe: SampleRecipe) -> dict:
    """Write the files of one sample and return its record."""
    num_classes = len(sampler.classes)
    names = {kind: f"{folder}/{pair.seed:07d}.png" for kind, folder in FOLDERS.items()
             if num_classes or kind == "image"}
    pictures.save_png(out / names["image"], pair.rgb)
    if num_classes:
        pictures.save_label_png(out / names["label"], pair.label_map, num_classes)
        pictures.save_png(out / names["overlay"],
                          pictures.overlay(pair.rgb, pair.label_map, num_classes))
    return make_record(pair, sampler, recipe, names)


def make_record(pair: Pair, sampler: Sampler, recipe: SampleRecipe, files: dict) -> dict:
    """Return the record for samples.jsonl of a pair in `files`, {kind: path}."""
    labels = np.unique(pair.label_map)
    present = [sampler.classes[label - 1] for label in labels[labels > 0]]
    stated = {name: value for name, value in asdict(recipe).items() if value is not None}
    sureness = {} if pair.confidence is None else {"confidence": pair.confidence}
    return {"seed": pair.seed, **files, **stated, "network": str(sampler.path), "present": present,
            **sureness, "sha256": pair_digest(pair.rgb, pair.label_map)}


def pair_digest(rgb: np.ndarray, label_map: np.ndarray) -> str:
    """Return the sha256 of the pixels of a pair's picture and label map, as hex digits."""
    return hashlib.sha256(rgb.tobytes() + label_map.tobytes()).hexdigest()


def replay(sampler: Sampler, record: dict, folder: Path, out: Path) -> tuple[bool, str]:
    """Make the sample of a record again in folder `out`, which has no pairs of its own, and compare
    it with the recorded one in `folder`; return whether it is the same, and what to print about it.

    Another minibatch, machine or number of threads rounds differently. Two samples count as the
    same if no pixel's colours differ by more than one grey level, and if labels differ only where
    they tie: where the map of the recorded label (0 for the background) is within one grey level of
    the largest one. sampler: of the record's network and label.
    """
    if (out / SAMPLES).exists():
        raise UserError(f"--out={out}: holds pairs, which would be replaced; choose another folder")
    recipe = recipe_of(record)
    # Samples of a data set, which have no files of their own, were made BLOCK at a time.
    count = 1 if "image" in record else BLOCK
    images, = sampler.seed_images([record["seed"]] * count, recipe.trunc, recipe.noise, count)
    cleaned = without_small_regions(images.numpy()[:1], recipe.min_region, sampler.content_box,
                                    recipe.box)
    image = crop_to_box(cleaned, recipe.box)
    rgb, label_map = (part[0] for part in to_pairs(image))
    outcome = _compare(record, folder, image, rgb, label_map)
    write_pair(out, Pair(record["seed"], rgb, label_map, None), sampler, recipe)
    return outcome


def _compare(record, folder, image, rgb, label_map):
    """Return the result of `replay` for a sample that was made again, float32 [1, H, W, 3 + C], and
    its pair."""
    if pair_digest(rgb, label_map) == record["sha256"]:
        return True, "every pixel as recorded"
    if "image" not in record:
        return False, "but not to the bit, and there are no pictures to compare it with"
    try:
        old_rgb = pictures.read_png(folder / record["image"])
        old_map = (pictures.read_png(folder / record["label"]) if "label" in record
                   else 0 * label_map)
    except OSError as error:
        return False, ("but not to the bit, and the recorded files cannot be compared: "
                       f"{util.one_line(error)}")
    if old_rgb.shape != rgb.shape or pair_digest(old_rgb, old_map) != record["sha256"]:
        return False, f"but the files in {folder} are not the recorded ones any more"
    levels = np.abs(rgb.astype(int) - old_rgb).max()
    # [H, W, 1 + C]: the background and the maps, in the order of the labels.
    values = np.insert(image[0][..., channels.SEGMAPS], 0, 0, axis=-1)
    chosen = np.take_along_axis(values, old_map[..., None].astype(int), axis=-1)[..., 0]
    others = np.count_nonzero(values.max(axis=-1) - chosen > 1 / 255)
    if levels <= 1 and not others:
        return True, "as recorded within one grey level"
    return False, (f"but pixels differ from the record by up to {levels} grey levels, and the "
                   f"labels of {others} by more than a tie")


def _write_annotations(out, classes, records):
    """Write COCO annotations of all samples in the folder, from their label maps."""
    coco.rename_annotations(out, classes)
    path = coco.annotations_path(out, classes)
    if not path.exists():
        seeds = util.progress(sorted(records), desc="annotations", unit="img")
        items = ((seed, Path(records[seed]["image"]).name,
                  pictures.read_png(out / records[seed]["label"])) for seed in seeds)
        coco.write_coco(path, classes, items, "generated, one annotation a class")
