"""What the dataset tool's create commands do, from finding photos to the finished data set."""

import hashlib
import shutil
from pathlib import Path

import numpy as np

from dataprep import annotations, sources, writer
from dnnlib import util

# ModaNet's own split, from this many photos on; smaller sets are split in the same proportions.
FULL_SET, FULL_VAL, FULL_TEST, _FULL_FROM = 52_346, 2_000, 5_000, 50_000
TRAIN_JSON = "modanet2018_instances_train.json"


def create_modanet(config, print_line):
    """Annotated photos -> a data set of RGB + one map per class.

    `config`: namespace with source, annotations, images, out, resolution, fit, encoding, num_images, num_val, num_test,
    seed, workers, dry_run. Returns the content of dataset.json, or None after a dry run.
    """
    path = Path(config.annotations or Path(config.source) / "annotations" / TRAIN_JSON)
    classes = annotations.MODANET_CLASSES
    labelled = annotations.load_annotations(path, len(classes))
    source = sources.open_source(config.images or _photos_of(config.source))
    items, skipped = _find_photos(labelled, source)
    _report_found(labelled, items, skipped, print_line)
    recipe = writer.Recipe(source, classes, config.resolution, config.fit, config.encoding)
    options = {"command": "create_modanet", "annotations_md5": _md5(path), **_options(config)}
    return _create(config, recipe, items, skipped, options, print_line)


def create_from_images(config, print_line):
    """Any folder of photos -> an RGB data set; ids are the files' names. `config` as in `create_modanet`."""
    names = sources.list_images(config.source)
    print_line(f"{len(names)} image files below {config.source}")
    recipe = writer.Recipe(sources.PhotoFolder(Path(config.source)), (), config.resolution, config.fit,
                           config.encoding)
    items = [writer.Item(name, name) for name in names]
    options = {"command": "create_from_images",
               "names_md5": hashlib.md5("\n".join(names).encode()).hexdigest(), **_options(config)}
    return _create(config, recipe, items, [], options, print_line)


def _options(config):
    """The options that determine a data set's content."""
    names = ("resolution", "fit", "encoding", "num_images", "num_val", "num_test", "seed")
    return {name: getattr(config, name) for name in names}


def _photos_of(source):
    """The photos below a source folder: images/, or photos.lmdb."""
    for name in ("images", "photos.lmdb"):
        if (Path(source) / name).exists():
            return Path(source) / name
    raise util.UserError(f"{source}: neither images/ nor photos.lmdb there; put one there, "
                         "or name the photos with --images")


def _find_photos(labelled, source):
    """([Item] in the order of ids, [{"id", "reason"}] of the others)."""
    items, skipped = [], list(labelled.skipped_images)
    for image_id, photo in sorted(labelled.photos.items()):
        key = source.find(image_id, photo.file_name)
        if not photo.instances:
            skipped.append({"id": image_id, "reason": "no annotations"})
        elif key is None:
            skipped.append({"id": image_id, "reason": "photo is missing"})
        else:
            items.append(writer.Item(image_id, key, photo))
    return items, skipped


def _report_found(labelled, items, skipped, print_line):
    """Say how many photos can be used and what was left out."""
    print_line(f"{len(labelled.photos)} images listed, {len(items)} annotated and found")
    for reason, count in sorted(_count(entry["reason"] for entry in skipped).items()):
        print_line(f"  left out: {count} ({reason})")
    for reason, count in sorted(labelled.skipped_annotations.items()):
        print_line(f"  annotations with a part left out: {count} ({reason})")


def _count(values):
    """{value: how often}."""
    counts = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _create(config, recipe, items, skipped, options, print_line):
    """Choose, project, write, report."""
    if writer.check_target(config.out, options):
        print_line(f"{config.out} already holds this data set, finished; nothing to do "
                   "(delete the folder to make it anew)")
        return util.read_json(Path(config.out) / "dataset.json")
    splits = _choose(config, items, bool(recipe.classes))
    chosen = [item for split in writer.SPLITS for item in splits[split]]
    if not chosen:
        raise util.UserError("no photo to convert; look at the counts above")
    _project(config, recipe, chosen, print_line)
    if config.dry_run:
        print_line("dry run: nothing written")
        return None
    content = writer.write_dataset(config.out, recipe, splits, skipped, options, config.workers)
    sizes = ", ".join(f"{split} {len(ids)}" for split, ids in content["splits"].items())
    print_line(f"{config.out}: {sizes}; {content['skipped']} left out "
               f"({Path(config.out) / 'skipped.jsonl'} has the reasons)")
    return content


def _choose(config, items, labelled):
    """{split: [Item]} of at most `num_images` photos."""
    if config.num_images is not None and config.num_images < len(items):
        order = np.random.default_rng([config.seed, 1]).permutation(len(items))
        items = [items[i] for i in np.sort(order[:config.num_images])]
    num_val, num_test = default_splits(len(items)) if labelled else (0, 0)
    num_val = num_val if config.num_val is None else config.num_val
    num_test = num_test if config.num_test is None else config.num_test
    return writer.choose_splits(items, num_val, num_test, config.seed)


def default_splits(num_photos):
    """(validation, test) sizes: 2,000 and 5,000 on the full set, the same proportions on smaller ones."""
    if num_photos >= _FULL_FROM:
        return FULL_VAL, FULL_TEST
    return round(num_photos * FULL_VAL / FULL_SET), round(num_photos * FULL_TEST / FULL_SET)


def _project(config, recipe, items, print_line):
    """Print the projected size and time. Raises UserError where the disk cannot hold it."""
    size, seconds = writer.project(recipe, items)
    total = size * len(items)
    print_line(f"projected: {len(items)} photos, {total / 1e9:.2f} GB ({size / 1e6:.3f} MB a photo), "
               f"about {util.format_time(seconds * len(items) / config.workers)} with "
               f"{config.workers} workers")
    folder = Path(config.out).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if total * 1.02 > free and not config.dry_run:
        raise util.UserError(f"{config.out}: the disk has {free / 1e9:.2f} GB free, too little; "
                             "choose another --out, a smaller --resolution or --num-images")


def _md5(path):
    """md5 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
