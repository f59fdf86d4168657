"""The dataset tool's create commands, from finding the photos to the finished data set.

`config` is the parsed command line, where `runner` is None or a BeamRunner; `report` prints a line
for the user. Each command returns the content of dataset.json, or None after a dry run.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataprep import conversion, labels, masks, photo_sources, raw_files, side_by_side, writer
from dataprep.coco import annotations, people
from dataprep.coco.categories import Categories
from dataprep.conversion import ConversionSpec, Item
from dataprep.drawing.synthetic import PAIRS_FILE, Drawing, draw_all
from dnnlib import suggestions, util
from dnnlib.cli import IdleRule, refuse_idle
from dnnlib.data import class_list, dataset
from dnnlib.data.coco import KEYPOINTS_FILE, MODANET_CLASSES
from dnnlib.data.photo_names import MISSING, NUMBER_DIFFERS
from dnnlib.download import file_digest

Report = Callable[[str], None]
# ModaNet's own split. With _FULL_FROM photos or more it is taken as it is, with fewer in
# proportion.
_ALL, _VAL, _TEST, _FULL_FROM = 52_346, 2_000, 5_000, 50_000
_SHOWN, _MAX_SHOWN = 5, 200  # examples in a line, characters of each
_ENOUGH = 10  # from this multiple of the smallest useful validation split, photos can be spared
_DISK_MARGIN = 1.02


# Photos with a COCO file

def create_modanet(config: argparse.Namespace, report: Report) -> dict | None:
    """Make a data set of RGB + one map per class from photos and COCO annotations; with
    `config.untagged`, an RGB data set of the photos that are listed without annotations."""
    name = raw_files.VAL_JSON if config.untagged else raw_files.TRAIN_JSON
    places = raw_files.find_modanet(config.source, config.annotations, config.images, report, name)
    return _create_listed(config, *places, report, config.untagged)


def create_from_coco(config: argparse.Namespace, report: Report) -> dict | None:
    """Make a data set as create_modanet does, from annotations of any classes. With
    `config.keypoints`, a COCO keypoint file, images have keypoints, and no maps if there are no
    other annotations. `config.pairs` lists pairs of photos of one person."""
    alone = config.keypoints is not None and config.source is None and config.annotations is None
    options = ("keypoints", "pairs", "only_classes")
    refuse_idle([name for name in options if getattr(config, name) is not None], [
        IdleRule(("keypoints", "pairs"), config.untagged, "--untagged takes photos alone"),
        IdleRule(("pairs",), config.keypoints is None, "only data sets with --keypoints have any"),
        IdleRule(("only_classes",), alone, "keypoints alone have no classes")])
    if alone and config.images is None:
        raise util.UserError("--keypoints needs the photos: give --images, or --source for a "
                             "folder that holds photos and annotations")
    path, images = None, config.images
    if not alone:
        path, images = raw_files.find_coco(config.source, config.annotations, config.images,
                                           config.keypoints)
    return _create_listed(config, path, images, report, config.untagged, own=True,
                          keypoints=config.keypoints, pairs=config.pairs)


def create_synthetic(config: argparse.Namespace, report: Report) -> dict | None:
    """Draw figures into `<out>/raw`, as JPEGs with COCO annotations, and convert them."""
    raw = Path(config.out) / "raw"
    drawing = Drawing(config.num_images, config.seed, config.keypoints, config.poses)
    # Before drawing, refuse a finished set of other drawings and impossible splits.
    if (Path(config.out) / dataset.FILE_NAME).exists() and not drawing.is_in(raw):
        raise util.UserError(f"{config.out} holds a finished data set of other drawings; choose "
                             "another --out or delete it")
    writer.check_splits(*_split_sizes(config, config.num_images, True), config.num_images)
    if config.only_classes:
        Categories(MODANET_CLASSES, {}).restrict(config.only_classes)
    if config.dry_run:
        report(f"dry run: nothing written; would draw {config.num_images} photos into {raw}")
        return None
    path = draw_all(raw, drawing, config.workers)
    report(f"{raw}: {config.num_images} photos drawn")
    return _create_listed(config, path, raw / "images", report,
                          keypoints=raw / KEYPOINTS_FILE if config.keypoints else None,
                          pairs=raw / PAIRS_FILE if config.poses > 1 else None)


def _create_listed(config, path, photos, report, untagged=False, own=False, keypoints=None,
                   pairs=None):
    """Make a data set from photos and a COCO file, a keypoint file or both. path: the COCO file, or
    None; untagged: RGB only, of the photos without annotations; own: classes need not be ModaNet's;
    keypoints: the keypoint file, or None; pairs: a list of pairs of photos of one person."""
    # Read the files, and find the photos of their entries.
    source = photo_sources.open_photos(photos)
    options, joints, labelled = {"source": file_digest(path or keypoints, "md5")}, None, None
    if path is not None:
        labelled = annotations.load_annotations(path, own, config.only_classes)
    if keypoints is not None:
        joints = people.read_keypoint_file(keypoints)
        options["keypoints"] = file_digest(keypoints, "md5")
        report(f"{keypoints}: {len(joints.names)} keypoints: {', '.join(joints.names)}")
        labelled, path = joints.join(labelled), path or keypoints
    annotated = sum(photo.is_annotated for photo in labelled.photos.values())
    matched = raw_files.match_photos(labelled.photos, source, untagged)
    options[writer.PHOTO_SIZES] = raw_files.sizes_digest(source, [key for _, key in matched.pairs])

    # Report what was found, and what was left out.
    if untagged:
        options["untagged"] = True
        report(f"{path}: {len(labelled.photos)} images listed, {len(matched.pairs)} found without "
               "annotations: an RGB data set, for --untagged")
    else:
        if labelled.photos and not annotated and not labelled.defects:
            raise util.UserError(f"{path}: {len(labelled.photos)} images are listed, none has a "
                                 "polygon; to use them as photos without labels, add --untagged")
        if labelled.renumbered or matched.joined or NUMBER_DIFFERS in matched.remarks:
            options["names"] = "decide"  # in earlier versions, numbers did
        if config.only_classes:
            options["only_classes"] = list(labelled.classes)
        for note in labelled.notes:
            report(note)
        unusable, found = len(labelled.skipped_images), len(matched.pairs) + matched.joined
        missing = sum(reason.startswith(MISSING) for reason in matched.reasons.values())
        doubtful = annotated - found - missing
        report(f"{path}: {len(labelled.photos) + unusable} images listed"
               + (f", {unusable} unusable" if unusable else "")
               + f", {len(labelled.photos) - annotated} empty, {annotated} annotated: "
                 f"{found} found, {missing} missing"
               + (f", {doubtful} in doubt" if doubtful else ""))
    _report_remarks(matched, report)
    skipped = labelled.skipped_images + [
        {"id": image_id, "reason": reason} for image_id, reason in matched.reasons.items()]
    skipped += [] if untagged else labelled.defects
    _report_reasons(skipped, report)

    items = [Item(photo.image_id, key, None if untagged else photo) for photo, key in matched.pairs]
    same_person = []
    if pairs is not None:
        options["pairs"] = file_digest(pairs, "md5")
        items, same_person = _with_persons(items, pairs, report)
    return _create(config, source, items, skipped, options, report,
                   classes=() if untagged else labelled.classes, joints=joints, pairs=same_person)


def _report_remarks(matched, report):
    """Report photos that were found in unusual ways."""
    for kind, instances in matched.remarks.items():
        more = "; ..." if len(instances) > _SHOWN else ""
        shown = "; ".join(util.one_line(text)[:_MAX_SHOWN] for text in instances[:_SHOWN])
        report(f"  {len(instances)} x {kind} ({shown}{more})")
    if matched.joined:
        report(f"  {matched.joined} x one photo under another id: the annotations are joined")


def _with_persons(items, path, report):
    """Return (items with numbers of persons, pairs of ids) from the list of pairs at `path`."""
    listed = people.read_pair_list(path)
    # The name in the annotations and that of the file, which may differ.
    names = {name: item.image_id for item in items
             for name in (item.photo.file_name, item.key) if isinstance(name, str)}
    links = people.resolve_pairs(listed, names)
    person_of = people.number_persons([item.image_id for item in items], links)
    pairs = [pair for pair in links if person_of.keys() >= set(pair)]
    report(f"{path}: {len(listed)} pairs, {len(pairs)} of photos that are used")
    if not pairs:
        unknown = next((name[0] for pair in links for name in pair if isinstance(name, tuple)), "")
        raise util.UserError(f"{path}: no pair names two photos that are used" + (
            f"; {unknown} is none of them, which have names such as {next(iter(names), '')}"
            if unknown else ""))
    return [dataclasses.replace(item, person=person_of[item.image_id]) for item in items], pairs


# Photos without maps

def create_from_images(config: argparse.Namespace, report: Report) -> dict | None:
    """Make an RGB data set from any folder of photos; ids are the files' names. With
    `config.labels` (see dataprep.labels) every image has a conditioning label. A folder of the
    official dataset tool's record files will do as well. Raises UserError for a folder that has
    photos and masks in folders of their own, since the masks would be taken for photos."""
    source = Path(config.source)
    for photos, maps in suggestions.PHOTOS_AND_MASKS:
        if (source / photos).is_dir() and (source / maps).is_dir():
            raise util.UserError(
                f"--source={source}: the masks in {maps}/ would be taken for photos, too; give "
                f"--source={source / photos}, or keep the masks: "
                + suggestions.command("dataset_tool.py", "create_from_masks",
                                      f"--source={source}"))
    names, others = photo_sources.list_photos(config.source)
    given = os.path.realpath(config.labels) if config.labels is not None else None
    skipped = [{**entry, "id": _as_text(entry["id"])} for entry in others
               if os.path.realpath(os.path.join(config.source, entry["id"])) != given]
    if not names and any(Path(config.source).glob("*-r[0-9][0-9].tfrecords")):
        return _create_from_records(config, report)
    report(f"{config.source}: {len(names)} image files")
    _report_reasons(skipped, report)
    listed = hashlib.md5("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    source = photo_sources.PhotoFolder(source)
    table = np.zeros((len(names), 0), np.float32)
    options = {"source": listed, writer.PHOTO_SIZES: raw_files.sizes_digest(source, names)}
    if config.labels is not None:
        table = labels.read_label_file(config.labels, names)
        options["labels"] = file_digest(config.labels, "md5")
        _report_labels(config.labels, table, report)
    else:  # StyleGAN2-ADA's tools read labels from this file
        path = Path(config.source) / dataset.FILE_NAME
        with contextlib.suppress(util.UserError):  # missing or broken, it is no file of labels
            content = util.read_json(path)
            if isinstance(content, dict) and content.get("labels"):
                report(f"warning: the labels in {path} are not used; to use them, give "
                       f"{shlex.quote(f'--labels={path}')}")
    items = [Item(_as_text(name), name, label=row) for name, row in zip(names, table)]
    return _create(config, source, items, skipped, options, report, label_size=table.shape[1])


def _create_from_records(config, report):
    """Run create_from_images for record files and the file of labels beside them, if any."""
    source = photo_sources.PhotoRecords(Path(config.source), config.resolution)
    records = photo_sources.open_records(source)
    refuse_idle(["labels"] if config.labels is not None else [], [
        IdleRule(("labels",), True, "images in record files have no names to label, and their own "
                                    "file of labels (*-rxx.labels) is used if it is there")])
    side = 1 << int(records.path.stem[-2:])  # of train-r07: 128
    report(f"{records.path}: {len(records)} images of {side}x{side}")
    if side < config.resolution:
        report(f"warning: they are enlarged to {config.resolution}; --resolution={side} takes them "
               "as they are")
    table = np.zeros((len(records), 0), np.float32)  # [n, label_size]
    options = {"source": f"{records.path.name}, {records.path.stat().st_size} bytes"}
    tables = sorted(source.path.glob("*-rxx.labels"))
    if len(tables) > 1:
        raise util.UserError(f"{source.path}: {tables[0].name} and {tables[1].name} are labels of "
                             "different data sets; keep one in a folder")
    for path in tables:
        table = dataset.read_label_array(path)
        if table.ndim != 2 or len(table) != len(records) or not np.isfinite(table).all():
            raise util.UserError(f"{path}: expected finite numbers of shape [{len(records)}, n], "
                                 f"found shape {list(table.shape)}; move it elsewhere to do "
                                 "without labels")
        options["labels"] = file_digest(path, "md5")
        _report_labels(path, table, report)
    items = [Item(number, number, label=row) for number, row in enumerate(table)]
    return _create(config, source, items, [], options, report, label_size=table.shape[1])


def _as_text(name):
    """Return a file's name as an id; bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _report_labels(path, table, report):
    """Report on labels [n, label_size]; warn if a class has no image, or if labels are all zeros
    (the critic's score of an image is the sum of its outputs times the label)."""
    if not table.size:
        return
    report(f"{path}: a label of {table.shape[1]} numbers for every image")
    missing = labels.missing_classes(table)
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
        report(f"warning: no image has class {shown} (of {table.shape[1]} classes, counted from 0)")
    zeros = int((~table.any(axis=1)).sum())
    if zeros:
        report(f"warning: {zeros} labels of zeros only: training learns nothing from their images")


# Photos with masks

def create_from_masks(config: argparse.Namespace, report: Report) -> dict | None:
    """Make a data set of RGB + one map per class from photos and mask PNGs (see dataprep.masks)."""
    images, mask_folder, listed = raw_files.find_masks(config.source, config.images, config.masks,
                                                       config.classes)
    class_names = class_list.read_class_list(listed)
    pairs, unmatched = raw_files.match_masks(images, mask_folder)
    skipped = [{key: _as_text(text) for key, text in entry.items()} for entry in unmatched
               if not any(os.path.realpath(folder / entry["id"]) == os.path.realpath(listed)
                          for folder in (images, mask_folder.parent))]
    report(f"{images}: {len(pairs)} photos with a mask")
    _report_reasons(skipped, report)
    # Decide what the masks' values mean.
    source = photo_sources.PhotoFolder(mask_folder)
    contents = masks.read_contents(source, list(pairs.values()), config.workers)
    classes, coding = masks.decide_coding(class_names, contents, config.ignore, report)
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(classes, 1))
    report(f"{listed}: 0 background, {numbered}")
    items = [Item(_as_text(name), name, masks.Mask(source, mask, coding))
             for name, mask in pairs.items()]
    options = {"classes": list(classes),
               "source": raw_files.listing_digest(images, mask_folder, pairs)}
    if config.ignore is not None:
        options["ignore"] = config.ignore
    if coding.colours:
        options["colours"] = [list(entry) for entry in coding.colours]
    return _create(config, photo_sources.PhotoFolder(images), items, skipped, options, report,
                   classes)


# Photo and labels in one picture

def create_from_pairs(config: argparse.Namespace, report: Report) -> dict | None:
    """Make a data set of RGB + one map per class from pictures that hold photo and labels side by
    side (see dataprep.side_by_side). Folders train/, val/ and test/, if there, are the splits."""
    root, (names, others) = Path(config.source), photo_sources.list_photos(config.source)
    splits, outside = side_by_side.folder_splits(config.source, names)
    skipped = [{**entry, "id": _as_text(entry["id"])} for entry in others + outside]
    report(f"{config.source}: {len(names)} pictures"
           + (", in the splits of its folders" if splits else ""))
    refuse_idle([name for name in ("num_val", "num_test") if getattr(config, name) is not None], [
        IdleRule(("num_val", "num_test"), bool(splits),
                 f"the folders in {config.source} are the splits")])
    _report_reasons(skipped, report)
    # Read what the colours mean.
    classes, colours = side_by_side.read_colours(config.classes, report)
    layout = side_by_side.SideBySide(config.photo, colours)
    items = [Item(_as_text(name), name, layout, split=splits.get(name)) for name in names
             if name in splits or not splits]
    options = {"classes": list(classes), "colours": [list(entry) for entry in colours],
               "photo": config.photo, "splits": "folders" if splits else "seed",
               "source": raw_files.listing_digest(root, root, {item.key: item.key
                                                               for item in items})}
    return _create(config, photo_sources.PhotoFolder(root), items, skipped, options, report,
                   classes)


# All photos

def _create(config, source, items, skipped, options, report, classes=(), label_size=0, joints=None,
            pairs=()):
    """Choose photos, project size and time, write the data set, report. joints: the KeypointFile,
    or None; pairs: pairs of ids of photos of one person."""
    spec = ConversionSpec(source, classes, config.resolution, config.fit, config.encoding,
                          label_size, *((joints.names, joints.skeleton) if joints else ()))
    # Photos and splits.
    if config.num_images is not None and config.num_images < len(items):
        order = np.random.default_rng([config.seed, 1]).permutation(len(items))
        skipped += [{"id": items[i].image_id, "reason": "not chosen (--num-images)"}
                    for i in np.sort(order[config.num_images:])]
        items = [items[i] for i in np.sort(order[:config.num_images])]
    if not items:
        raise util.UserError(f"{source.path}: there is no photo to convert")
    given = collections.Counter(item.split for item in items if item.split)
    num_val, num_test = (given["val"], given["test"]) if given \
        else _split_sizes(config, len(items), bool(classes or joints))
    options |= {"command": config.command, "seed": config.seed, "resolution": config.resolution,
                "fit": config.fit, "encoding": config.encoding, "photos": len(items),
                "num_val": num_val, "num_test": num_test}
    if writer.is_finished(config.out, options):
        report(f"{config.out} holds this data set already, finished; nothing to do (delete it to "
               "make it again)")
        content = util.read_json(Path(config.out) / dataset.FILE_NAME)
        if writer.PHOTO_SIZES in options.keys() - content["options"].keys():
            report("  it was made before photo sizes were recorded: that its photos are those in "
                   f"{source.path} is known only from their names")
        writer.remove_work(config.out)  # a run killed at the very end leaves its journal
        return content

    # Before anything is written, find what could go wrong after hours.
    writer.check_splits(num_val, num_test, len(items))
    unreadable = conversion.count_unreadable(source, [item.key for item in items], config.workers)
    report(f"{len(items)} photos to convert, {unreadable} of them unreadable by their headers")
    if unreadable < len(items):  # otherwise write_dataset reports the reason
        writer.check_splits(num_val, num_test, len(items) - unreadable)
    if "untagged" not in options and not given:
        _report_few_validation(num_val, len(items), report)
    _check_space(config, len(items) - unreadable, *conversion.estimate_cost(spec, items), report)
    if config.dry_run:
        report("dry run: nothing written")
        return None

    before = len(skipped)
    content = writer.write_dataset(config.out, spec, writer.shuffle_items(items, config.seed),
                                   (num_val, num_test), skipped, options, config.workers, report,
                                   config.runner, pairs)
    _report_reasons(skipped[before:], report)
    sizes = ", ".join(f"{len(ids)} {split}" for split, ids in content["splits"].items())
    report(f"{config.out}: {sizes}; {content['skipped']} left out "
           f"({Path(config.out) / writer.SKIPPED} lists all)")
    unseen = [name for name in classes if not any(
        counts[name]["images"] for counts in content["class_counts"].values())]
    if unseen:
        report(f"warning: no image shows {', '.join(unseen)}: check whether the list of classes "
               "and the photos belong together; nothing can be learnt about these classes")
    return content


def _check_space(config, num_photos, size, seconds, report):
    """Report the total of `num_photos`, each of `size` bytes and `seconds` on one core. Raise
    UserError if the disk cannot hold them; unfinished files, which are continued or replaced, count
    as free space."""
    total, seconds = size * num_photos, seconds * num_photos
    duration = f"{util.format_time(seconds / config.workers)} with {config.workers} workers" \
        if config.runner is None else f"{util.format_time(seconds)} of one core"
    report(f"projected: {num_photos} photos, {total / 1e9:.2f} GB ({size / 1e6:.3f} MB each), "
           f"about {duration} (from a few of them)")
    folder = Path(config.out).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free + writer.unfinished_bytes(config.out)
    if total * _DISK_MARGIN > free:
        raise util.UserError(f"{config.out}: the disk has only {free / 1e9:.2f} GB left; free some "
                             "space, or choose another --out, --resolution or --num-images")


def _report_reasons(skipped, report):
    """Report each reason why something was left out, with the number of cases."""
    reasons = collections.Counter(entry["reason"] for entry in skipped)
    for reason, count in reasons.most_common():
        report(f"  left out: {count} x {reason}")


def _report_few_validation(num_val, num_photos, report):
    """Warn if there are too few validation photos, with advice."""
    sentence = suggestions.few_validation(num_val)
    if sentence and num_photos >= _ENOUGH * suggestions.FEW_VALIDATION:
        report(f"warning: {sentence}; --num-val={suggestions.FEW_VALIDATION} or more can")
    elif sentence and num_val:
        report(f"warning: {sentence}; --num-val=0 --num-test=0 trains with all of so few photos")


def _split_sizes(config, num_photos, annotated):
    """Return (validation, test) as asked; else `default_splits` if annotated, or none."""
    sizes = default_splits(num_photos) if annotated else (0, 0)
    asked = config.num_val, config.num_test
    return tuple(size if given is None else given for size, given in zip(sizes, asked))


def default_splits(num_photos: int) -> tuple[int, int]:
    """Return (validation, test): 2,000 and 5,000 of the full set, the same shares of smaller ones.
    """
    if num_photos >= _FULL_FROM:
        return _VAL, _TEST
    return round(num_photos * _VAL / _ALL), round(num_photos * _TEST / _ALL)
