"""Labelled pairs in bulk, with COCO annotations and a line per sample from which to make it again.

    OUT/images/0000007.png     colours
    OUT/labels/0000007.png     palette indices: 0 background, 1..C
    OUT/overlays/0000007.png
    OUT/classes.txt            names of the classes 1..C
    OUT/annotations/instances.json    of all samples in the folder; of ModaNet's classes
                               modanet2018_instances_train.json
    OUT/samples.jsonl          seed, options and the network's digest of each

The layout is what `dataset_tool.py create_from_masks --source OUT` reads, and ModaNet's own, so
that create_modanet or create_from_coco read it too. A sample counts as made once its line stands in
samples.jsonl, which is written last.
"""

import errno
import hashlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.data import channels, coco, pictures
from dnnlib.data.class_list import write_class_list
from dnnlib.util import UserError
from training.sampler import NOISES, TRUNCATION_CUTOFF, label_maps
from training.snapshots import read_header

SAMPLES = "samples.jsonl"
FOLDERS = {"image": "images", "label": "labels", "overlay": "overlays"}


@dataclass(frozen=True)
class Recipe:
    """What besides the seed determines a sample's pixels."""

    digest: str
    resolution: int
    fade: float
    trunc: float
    trunc_cutoff: int
    noise: str
    class_label: int | tuple | None = None  # that a conditional network was given


def make_recipe(sampler, trunc, noise):
    """The recipe of a sampler (training.sampler.Sampler) and the two options."""
    return Recipe(sampler.digest, sampler.resolution, sampler.fade, trunc, TRUNCATION_CUTOFF, noise,
                  sampler.label)


def write_pairs(sampler, recipe, seeds, out, minibatch):
    """Make the pairs of `seeds` in folder `out`, keeping those that are there already.

    Returns (made, kept). Raises UserError where `out` holds something else or samples of another
    recipe, where the disk is full, or where the network has diverged.
    """
    out = Path(out)
    records = open_folder(out, recipe)
    _tidy(out)
    missing = [seed for seed in seeds if seed not in records]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / SAMPLES).touch()
        if missing:  # what stands there will not be of all samples any more
            coco.find_annotations(out).unlink(missing_ok=True)
        with util.progress(total=len(missing), desc="pairs", unit="img") as bar:
            for record in _make(sampler, recipe, missing, out, minibatch):
                util.append_jsonl(out / SAMPLES, record)
                records[record["seed"]] = record
                bar.update()
        if sampler.classes:
            _write_tables(out, sampler.classes, records)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{out}: the disk is full; {len(records)} complete samples stand. Free "
                        "some space and run the same command again: it continues") from None
    return len(missing), len(seeds) - len(missing)


def open_folder(out, recipe):
    """{seed: record} of the complete samples in a folder that may be new, checked against `recipe`.

    Raises UserError where `out` is a file, holds other things, or samples made in another way.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; a folder is wanted")
    path = out / SAMPLES
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out={out}: holds files, but no {SAMPLES}; choose a new folder")
        return {}
    records = {}
    for record in read_samples(path):
        _check_recipe(record, recipe, out)
        if all((out / record[kind]).is_file() for kind in FOLDERS if kind in record):
            records[record["seed"]] = record
    return records


def read_samples(path):
    """The records of a samples.jsonl in file order, without a last line torn by an interruption.

    Raises UserError for a missing file or any other broken line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return [_parse_record(line, f"{path}, line {number}")
            for number, line in enumerate(_whole_lines(path).splitlines(), 1)]


def _whole_lines(path):
    """A file's bytes up to its last line break."""
    content = path.read_bytes()
    return content[:content.rfind(b"\n") + 1]


def _tidy(out):
    """Take away what a killed run left: half-written files, a torn last line of samples.jsonl."""
    for path in out.glob("*/.*.tmp"):
        path.unlink()
    samples = out / SAMPLES
    if samples.exists() and len(_whole_lines(samples)) < samples.stat().st_size:
        util.atomic_write(samples, _whole_lines(samples))


def _parse_record(line, where):
    """A line of samples.jsonl -> its record, checked. Raises UserError."""
    try:
        record = json.loads(line)
        recipe = recipe_of(record)
        sound = (record["seed"] in range(np.iinfo(np.uint32).max + 1)
                 and recipe.noise in NOISES and np.isfinite([recipe.trunc, recipe.fade]).all()
                 and _is_label(recipe.class_label)
                 and all(isinstance(record[name], str) for name in ("network", "sha256"))
                 and all(isinstance(record[kind], str) for kind in FOLDERS if kind in record))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a sample's record ({util.one_line(error)})") from None
    if not sound:
        raise UserError(f"{where}: not a sample's record (a value is out of range)")
    return record


def _is_label(label):
    """Whether this can be a recipe's class_label: none, a class, or finite numbers."""
    if isinstance(label, tuple):
        return len(label) > 0 and all(type(x) in (int, float) and isfinite(x) for x in label)
    return label is None or (type(label) is int and label >= 0)


def recipe_of(record):
    """The recipe that a record states; without an entry `class_label`, as in records of networks
    that are not conditional, that is None. Raises KeyError for any other missing entry."""
    values = {"class_label": None, **record}
    if isinstance(values["class_label"], list):
        values["class_label"] = tuple(values["class_label"])
    return Recipe(**{name: values[name] for name in Recipe.__dataclass_fields__})


def _check_recipe(record, recipe, out):
    """Raise UserError listing where a record was made in another way than `recipe`."""
    there, wanted = asdict(recipe_of(record)), asdict(recipe)
    different = [f"{name} {_short(there[name])} there, {_short(wanted[name])} now"
                 for name in wanted if there[name] != wanted[name]]
    if different:
        raise UserError(f"--out={out}: holds samples made in another way ({'; '.join(different)}); "
                        "choose another folder or the same options")


def _short(value):
    """A value as it is shown; digests by their first digits."""
    return value[:12] if isinstance(value, str) else value


def _make(sampler, recipe, seeds, out, minibatch):
    """Yield the record of each seed once its files are on disk.

    Files are written in threads (PNG compression leaves the interpreter's lock), while the next
    minibatch is computed.
    """
    with ThreadPoolExecutor() as pool:
        pending = []
        for start in range(0, len(seeds), minibatch):
            batch = seeds[start:start + minibatch]
            images = make_images(sampler, recipe, batch)
            yield from (future.result() for future in pending)
            pending = [pool.submit(write_pair, out, seed, image, sampler, recipe)
                       for seed, image in zip(batch, images)]
        yield from (future.result() for future in pending)


def make_images(sampler, recipe, seeds):
    """Images float32 [N, H, W, 3 + C] of seeds. Raises UserError where values are not finite."""
    images = sampler.images(seeds, recipe.trunc, recipe.noise)
    sampler.check_finite(images)
    return images


def write_pair(out, seed, image, sampler, recipe):
    """Write the files of one sample, image float32 [H, W, 3 + C]; returns its record."""
    rgb, labels = to_pair(image)
    record = {"seed": seed,
              **{kind: f"{folder}/{seed:07d}.png" for kind, folder in FOLDERS.items()}}
    pictures.save_png(out / record["image"], rgb)
    if sampler.classes:
        num_classes = len(sampler.classes)
        pictures.save_label_png(out / record["label"], labels, num_classes)
        pictures.save_png(out / record["overlay"], pictures.overlay(rgb, labels, num_classes))
    else:
        del record["label"], record["overlay"]
    present = [sampler.classes[label - 1] for label in np.unique(labels[labels > 0])]
    stated = {name: value for name, value in asdict(recipe).items() if value is not None}
    return {**record, **stated, "network": str(sampler.path), "present": present,
            "sha256": pair_digest(rgb, labels)}


def to_pair(image):
    """Image float32 [H, W, 3 + C] -> (rgb uint8 [H, W, 3] as the metrics see it, label map)."""
    return pictures.to_uint8_metrics(image[..., channels.RGB]), label_maps(image)


def pair_digest(rgb, labels):
    """sha256 hex of a pair's pixels, by which a sample that was made again is compared."""
    return hashlib.sha256(rgb.tobytes() + labels.tobytes()).hexdigest()


def check_network(record, path):
    """Raise UserError where the snapshot at `path` is not the network that made a record."""
    digest = read_header(path)["digest"]
    if record["digest"] != digest:
        raise UserError(f"the sample was made by a network with digest {record['digest'][:12]}, "
                        f"{path} has {digest[:12]}: name the right one with --network")


def replay(sampler, record, out):
    """Make the sample of a record again in folder `out`, with a sampler of its network and label;
    returns whether every pixel is the same."""
    recipe = recipe_of(record)
    image = make_images(sampler, recipe, [record["seed"]])[0]
    again = write_pair(Path(out), record["seed"], image, sampler, recipe)
    return again["sha256"] == record["sha256"]


def describe(sampler, recipe, seeds, out):
    """What `write_pairs` would do, as text; size and time are measured on one sample in memory."""
    kept = open_folder(out, recipe)
    missing = [seed for seed in seeds if seed not in kept]
    size, seconds = _estimate(sampler, recipe, seeds)
    coco_file = coco.annotations_path("", sampler.classes)
    kinds = f"{', '.join(FOLDERS.values())}, {coco_file}" if sampler.classes else "images only"
    return "\n".join([
        f"{out}: {len(missing)} to make, {len(seeds) - len(missing)} there already ({kinds})",
        f"seeds {seeds[0]} to {seeds[-1]}, truncation {recipe.trunc:g}, noise {recipe.noise}",
        f"about {size * len(missing) / 1e6:.1f} MB on disk ({size / 1e3:.1f} kB each) and "
        f"{util.format_time(seconds * len(missing))} ({1 / seconds:.1f} images/s)",
        "dry run: nothing written"])


def _estimate(sampler, recipe, seeds):
    """(bytes on disk, seconds to compute) of one sample."""
    make_images(sampler, recipe, seeds[:1])  # compiles
    start = time.perf_counter()
    image = make_images(sampler, recipe, seeds[-1:])[0]
    seconds = time.perf_counter() - start
    rgb, labels = to_pair(image)
    kinds = [rgb, labels, rgb] if sampler.classes else [rgb]  # the overlay is like its image
    return sum(_png_bytes(picture) for picture in kinds), seconds


def _png_bytes(picture):
    """Size of a picture as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.tell()


def _write_tables(out, classes, records):
    """Write the names of the classes, and COCO annotations of all samples in the folder, which are
    read back from their label maps."""
    write_class_list(out, classes)
    coco.rename_annotations(out, classes)
    path = coco.annotations_path(out, classes)
    if path.exists():
        return

    def items():
        for seed in util.progress(sorted(records), desc="annotations", unit="img"):
            with Image.open(out / records[seed]["label"]) as image:
                yield seed, Path(records[seed]["image"]).name, np.asarray(image)
    coco.write_coco(path, classes, items(), "generated, one annotation a class")
