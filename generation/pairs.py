"""Write labelled pairs in bulk, with COCO annotations and a record of how each sample was made.

    OUT/images/0000007.png     colours
    OUT/labels/0000007.png     palette indices: 0 background, 1..C
    OUT/overlays/0000007.png
    OUT/classes.txt            names of the classes 1..C
    OUT/annotations/instances.json    of all samples in the folder; of ModaNet's classes
                               modanet2018_instances_train.json
    OUT/samples.jsonl          seed, options and the network's digest of each

The layout is ModaNet's own, which all create commands of dataset_tool.py read. A sample is complete
once its line is in samples.jsonl, which is written last.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.data import channels, coco, pictures
from dnnlib.data.class_list import write_class_list
from dnnlib.util import UserError
from training.sampler import NOISES, TRUNCATION_CUTOFF, Sampler, label_maps
from training.snapshots import read_header

SAMPLES = "samples.jsonl"
FOLDERS = {"image": "images", "label": "labels", "overlay": "overlays"}


@dataclass(frozen=True)
class SampleRecipe:
    """What besides the seed determines a sample's pixels."""

    digest: str
    resolution: int
    fade: float
    trunc: float
    trunc_cutoff: int
    noise: str
    class_label: int | tuple | None = None  # that a conditional network was given


def make_recipe(sampler: Sampler, trunc: float, noise: str) -> SampleRecipe:
    """Return the recipe of a sampler and the two options."""
    return SampleRecipe(sampler.digest, sampler.resolution, sampler.fade, trunc, TRUNCATION_CUTOFF,
                        noise, sampler.label)


def write_pairs(sampler: Sampler, recipe: SampleRecipe, seeds: Sequence[int], out: Path,
                minibatch: int) -> tuple[int, int]:
    """Make the pairs of `seeds` in folder `out`, except for those that are there already; return
    how many were made, and how many were there.

    Raises UserError if `out` holds something else or samples of another recipe, the disk is full,
    or the network has diverged.
    """
    records = open_folder(out, recipe)
    util.remove_leftovers(out, ["*/.*.tmp"])
    samples = out / SAMPLES
    if samples.exists() and len(_whole_lines(samples)) < samples.stat().st_size:
        util.atomic_write(samples, _whole_lines(samples))  # a killed run left a torn last line
    missing = [seed for seed in seeds if seed not in records]
    with util.disk_full_explained(out, lambda: f"{len(records)} samples are complete; free some "
                                  "space and run the same command again: it continues"):
        out.mkdir(parents=True, exist_ok=True)
        samples.touch()
        if missing:  # the annotations will not be of all samples any more
            coco.find_annotations(out).unlink(missing_ok=True)
        with util.progress(total=len(missing), desc="pairs", unit="img") as bar:
            for record in _make(sampler, recipe, missing, out, minibatch):
                util.append_jsonl(samples, record)
                records[record["seed"]] = record
                bar.update()
        if sampler.classes:
            _write_tables(out, sampler.classes, records)
    return len(missing), len(seeds) - len(missing)


def open_folder(out: Path, recipe: SampleRecipe) -> dict[int, dict]:
    """Return {seed: record} of the complete samples in a folder that may be new. Raises UserError
    if it holds other things, or samples made in another way."""
    path, records = out / SAMPLES, {}
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out={out}: holds files, but no {SAMPLES}; choose a new folder")
        return {}
    for record in read_samples(path):
        there, wanted = asdict(recipe_of(record)), asdict(recipe)
        different = [f"{name} {there[name]!s:.40} there, {wanted[name]!s:.40} now"
                     for name in wanted if there[name] != wanted[name]]
        if different:
            raise UserError(f"--out={out}: holds samples made in another way "
                            f"({'; '.join(different)}); choose another folder or the same options")
        if all((out / record[kind]).is_file() for kind in FOLDERS if kind in record):
            records[record["seed"]] = record
    return records


def read_samples(path: str | Path) -> list[dict]:
    """Return the records of a samples.jsonl, without a last line torn by an interruption. Raises
    UserError for a missing file or any other broken line."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    return [_parse_record(line, f"{path}, line {number}")
            for number, line in enumerate(_whole_lines(Path(path)).splitlines(), 1)]


def _whole_lines(path):
    """Return a file's bytes up to its last line break."""
    content = path.read_bytes()
    return content[:content.rfind(b"\n") + 1]


def _parse_record(line, where):
    """Return the record of a line of samples.jsonl. Raises UserError if it is none."""
    try:
        record = json.loads(line)
        recipe = recipe_of(record)
        label, texts = recipe.class_label, {"network", "sha256", *(FOLDERS.keys() & record.keys())}
        is_label = (label is None or (type(label) is int and label >= 0)
                    or (type(label) is tuple and {int, float} >= {*map(type, label)} != set()
                        and np.isfinite(label).all()))
        sound = (is_label and record["seed"] in range(np.iinfo(np.uint32).max + 1)
                 and recipe.noise in NOISES and np.isfinite([recipe.trunc, recipe.fade]).all()
                 and all(isinstance(record[name], str) for name in texts))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a sample's record ({util.one_line(error)})") from None
    if not sound:
        raise UserError(f"{where}: not a sample's record (a value is out of range)")
    return record


def recipe_of(record: dict) -> SampleRecipe:
    """Return the recipe in a record, which has no `class_label` if its network takes no labels.
    Raises KeyError for any other missing entry."""
    values = {"class_label": None, **record}
    if isinstance(values["class_label"], list):
        values["class_label"] = tuple(values["class_label"])
    return SampleRecipe(**{name: values[name] for name in SampleRecipe.__dataclass_fields__})


def _make(sampler, recipe, seeds, out, minibatch) -> Iterator[dict]:
    """Yield the record of each seed once its files are on disk: threads write them (compression
    releases the interpreter's lock) while the next minibatch is computed."""
    with ThreadPoolExecutor() as pool:
        pending, remaining = [], iter(seeds)
        for images in sampler.of_seeds(seeds, recipe.trunc, recipe.noise, minibatch):
            rgbs, maps = to_pairs(images)
            yield from (future.result() for future in pending)
            pending = [pool.submit(write_pair, out, seed, rgb, label_map, sampler, recipe)
                       for rgb, label_map, seed in zip(rgbs, maps, remaining)]
        yield from (future.result() for future in pending)


def to_pairs(images) -> tuple[np.ndarray, np.ndarray]:
    """Return rgb uint8 [N, H, W, 3], as the metrics take them, and label maps uint8 [N, H, W] of
    images float32 [N, H, W, 3 + C]."""
    return pictures.to_uint8_metrics(images[..., channels.RGB]), label_maps(images)


def write_pair(out: Path, seed: int, rgb: np.ndarray, label_map: np.ndarray, sampler: Sampler,
               recipe: SampleRecipe) -> dict:
    """Write the files of one sample and return its record."""
    num_classes = len(sampler.classes)
    record = {"seed": seed, **{kind: f"{folder}/{seed:07d}.png" for kind, folder in FOLDERS.items()
                               if num_classes or kind == "image"}}
    pictures.save_png(out / record["image"], rgb)
    if num_classes:
        pictures.save_label_png(out / record["label"], label_map, num_classes)
        pictures.save_png(out / record["overlay"], pictures.overlay(rgb, label_map, num_classes))
    present = [sampler.classes[label - 1] for label in np.unique(label_map[label_map > 0])]
    stated = {name: value for name, value in asdict(recipe).items() if value is not None}
    return {**record, **stated, "network": str(sampler.path), "present": present,
            "sha256": _pair_digest(rgb, label_map)}


def _pair_digest(rgb, label_map):
    """Return the sha256 of a pair's pixels, hex."""
    return hashlib.sha256(rgb.tobytes() + label_map.tobytes()).hexdigest()


def check_network(record: dict, path: Path) -> None:
    """Raise UserError if the snapshot at `path` is not the network that made a record."""
    digest = read_header(path)["digest"]
    if record["digest"] != digest:
        raise UserError(f"the sample was made by a network with digest {record['digest'][:12]}, "
                        f"{path} has {digest[:12]}: name the right one with --network")


def replay(sampler: Sampler, record: dict, folder: Path, out: Path) -> tuple[bool, str]:
    """Make the sample of a record again in folder `out`, and compare it with the recorded one in
    `folder`; return whether it is the same, and what to print about it.

    Another minibatch, machine or number of threads rounds differently. Two samples count as the
    same if no pixel's colours differ by more than one grey level, and if the label of no pixel
    differs by more than a tie: the map of the recorded label (0 for the background) is within one
    grey level of the largest one. sampler: of the record's network and label.
    """
    recipe = recipe_of(record)
    image, = sampler.of_seeds([record["seed"]], recipe.trunc, recipe.noise, 1)
    rgb, label_map = (part[0] for part in to_pairs(image))
    again = write_pair(out, record["seed"], rgb, label_map, sampler, recipe)
    if again["sha256"] == record["sha256"]:
        return True, "every pixel as recorded"
    try:
        old_rgb = _read_png(folder / record["image"])
        old_map = _read_png(folder / record["label"]) if "label" in record else 0 * label_map
    except OSError as error:
        return False, ("but not to the bit, and the recorded files cannot be compared: "
                       f"{util.one_line(error)}")
    if old_rgb.shape != rgb.shape or _pair_digest(old_rgb, old_map) != record["sha256"]:
        return False, f"but the files in {folder} are not the recorded ones any more"
    levels = np.abs(rgb.astype(int) - old_rgb).max()
    # [H, W, 1 + C]: the background and the maps, in the order of the labels.
    values = np.insert(image.numpy()[0][..., channels.SEGMAPS], 0, 0, axis=-1)
    chosen = np.take_along_axis(values, old_map[..., None].astype(int), axis=-1)[..., 0]
    others = np.count_nonzero(values.max(axis=-1) - chosen > 1 / 255)
    if levels <= 1 and not others:
        return True, "as recorded within one grey level"
    return False, (f"but pixels differ from the record by up to {levels} grey levels, and the "
                   f"labels of {others} by more than a tie")


def describe_work(sampler: Sampler, recipe: SampleRecipe, seeds: Sequence[int], out: Path,
                  minibatch: int) -> str:
    """Return what `write_pairs` would do, as text; size and time are measured elsewhere."""
    there = open_folder(out, recipe)
    num_missing = sum(seed not in there for seed in seeds)
    with tempfile.TemporaryDirectory() as place:
        for _ in range(2):  # the first time compiles
            start = time.perf_counter()
            made = list(_make(sampler, recipe, seeds[:minibatch], Path(place), minibatch))
        seconds = (time.perf_counter() - start) / len(made)
        size = sum(path.stat().st_size for path in Path(place).glob("*/*")) / len(made)
    files = [*FOLDERS.values(), str(coco.annotations_path("", sampler.classes))]
    return "\n".join([
        f"{out}: {num_missing} to make, {len(seeds) - num_missing} there already "
        f"({', '.join(files) if sampler.classes else 'images only'})",
        f"seeds {seeds[0]} to {seeds[-1]}, truncation {recipe.trunc:g}, noise {recipe.noise}",
        f"about {size * num_missing / 1e6:.1f} MB on disk ({size / 1e3:.1f} kB each) and "
        f"{util.format_time(seconds * num_missing)} ({1 / seconds:.1f} images/s)",
        "dry run: nothing written"])


def _read_png(path):
    """Return the pixels of a PNG, uint8: colours [H, W, 3], or palette indices [H, W]."""
    with Image.open(path) as image:
        return np.asarray(image)


def _write_tables(out, classes, records):
    """Write the names of the classes, and COCO annotations of all samples in the folder, which are
    read back from their label maps."""
    write_class_list(out, classes)
    coco.rename_annotations(out, classes)
    path = coco.annotations_path(out, classes)
    if not path.exists():
        seeds = util.progress(sorted(records), desc="annotations", unit="img")
        items = ((seed, Path(records[seed]["image"]).name, _read_png(out / records[seed]["label"]))
                 for seed in seeds)
        coco.write_coco(path, classes, items, "generated, one annotation a class")
