"""What the dataset tool's create commands do, from finding the photos to the finished data set.

`config` is the parsed command line; `say` prints a line for the user. Each command returns the
content of dataset.json, or None after a dry run.
"""

import collections
import contextlib
import hashlib
import os
import shlex
import tempfile
import time
from pathlib import Path

import numpy as np

from dataprep import (
    annotations,
    labels,
    mask_survey,
    masks,
    matching,
    modanet,
    photo_sources,
    preflight,
    synthetic,
    writer,
)
from dnnlib import suggestions, util
from dnnlib.data import class_list, dataset_info
from dnnlib.data.photo_names import MISSING, NUMBER_DIFFERS
from dnnlib.download import file_digest

# ModaNet's own split. From _FULL_FROM photos on it is taken as it is, below in proportion.
_ALL, _VAL, _TEST, _FULL_FROM = 52_346, 2_000, 5_000, 50_000
_SAMPLE = 4  # photos that a dry run draws
_RECORDS = "*-r[0-9][0-9].tfrecords"
_SHOWN, _MAX_SHOWN = 5, 200  # examples in a line, characters of one
_ENOUGH = 10  # times the least validation split: photos of which it can be spared


def create_modanet(config, say):
    """Photos and COCO annotations -> a data set of RGB + one map per class; with `config.untagged`
    an RGB data set of the photos that are listed without annotations."""
    name = modanet.VAL_JSON if config.untagged else modanet.TRAIN_JSON
    path, photos = modanet.find_raw(config.source, config.annotations, config.images, say, name)
    create = _create_untagged if config.untagged else _create_annotated
    return create(config, path, photo_sources.open_source(photos), say)


def create_from_coco(config, say):
    """Photos and COCO annotations of any classes -> as create_modanet."""
    path, photos = modanet.find_coco(config.source, config.annotations, config.images)
    create = _create_untagged if config.untagged else _create_annotated
    return create(config, path, photo_sources.open_source(photos), say, own=True)


def create_synthetic(config, say):
    """Drawn figures -> JPEGs and COCO annotations in `<out>/raw`, and through the same code."""
    raw = Path(config.out) / "raw"
    # Before anything is drawn over: a finished set of other drawings, splits that cannot be.
    if (Path(config.out) / dataset_info.FILE_NAME).exists() \
            and not synthetic.is_drawn(raw, config.num_images, config.seed):
        raise util.UserError(f"{config.out} holds a finished data set of other drawings; choose "
                             "another --out or delete it")
    writer.check_splits(*_split_sizes(config, config.num_images, True), config.num_images)
    if config.dry_run:
        say(f"would draw {config.num_images} photos into {raw}")
        _project_drawing(config, say)
        say("dry run: nothing written")
        return None
    path = synthetic.draw_all(raw, config.num_images, config.seed, config.workers)
    say(f"{raw}: {config.num_images} photos drawn")
    return _create_annotated(config, path, photo_sources.PhotoFolder(raw / "images"), say)


def _project_drawing(config, say):
    """Size and time of drawing and converting, from a few photos drawn elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = synthetic.draw_all(folder, _SAMPLE, config.seed, workers=1)
        seconds = (time.perf_counter() - started) / _SAMPLE
        source = photo_sources.PhotoFolder(Path(folder) / "images")
        classes = annotations.MODANET_CLASSES
        items = [writer.Item(photo.image_id, key, photo) for photo, key in matching.match_photos(
            annotations.load_annotations(path).photos, source).pairs]
        recipe = writer.Recipe(source, classes, config.resolution, config.fit, config.encoding)
        size, more = writer.project(recipe, items)
        drawn = sum(file.stat().st_size for file in source.path.iterdir()) / _SAMPLE
        preflight.check_space(config, config.num_images, size + drawn, seconds + more, say)


def create_from_images(config, say):
    """Any folder of photos -> an RGB data set whose ids are the files' names; with `config.labels`
    (see dataprep.labels) every image has its conditioning label.

    A folder of record files as the official dataset tool writes them does as well.
    """
    listing = photo_sources.list_photos(config.source)
    names, skipped = listing.photos, _others(config, listing.others)
    if not names and any(Path(config.source).glob(_RECORDS)):
        return _create_from_records(config, say)
    say(f"{config.source}: {len(names)} image files")
    _say_others(skipped, say)
    listed = hashlib.md5("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    table, options = np.zeros((len(names), 0), np.float32), {}
    if config.labels is not None:
        table = labels.read_label_file(config.labels, names)
        options = {"labels": file_digest(config.labels, "md5")}
        _say_labels(config.labels, table, say)
    else:
        _say_unused_labels(config.source, say)
    items = [_rgb_item(_as_text(name), name, row) for name, row in zip(names, table)]
    return _create_rgb(config, photo_sources.PhotoFolder(Path(config.source)), items, skipped,
                       {"source": listed, **options}, say)


def _create_from_records(config, say):
    """create_from_images of record files, with the file of labels beside them."""
    source = photo_sources.PhotoRecords(Path(config.source), config.resolution)
    records = photo_sources.open_records(source)
    if config.labels is not None:
        raise util.UserError("--labels: images in record files have no names to label; their own "
                             "file of labels (*-rxx.labels) is used where it is there")
    side = 1 << int(records.path.stem[-2:])
    say(f"{records.path}: {len(records)} images of {side}x{side}")
    if side < config.resolution:
        say(f"warning: they are enlarged to {config.resolution}; --resolution={side} takes them as "
            "they are")
    size, options = records.path.stat().st_size, {}
    table = np.zeros((len(records), 0), np.float32)
    for path in sorted(source.path.glob("*-rxx.labels")):
        table = dataset_info.read_label_array(path)
        if table.ndim != 2 or len(table) != len(records) or not np.isfinite(table).all():
            raise util.UserError(f"{path}: expected finite numbers of shape [{len(records)}, n], "
                                 f"found shape {list(table.shape)}; move it elsewhere to do "
                                 "without labels")
        options = {"labels": file_digest(path, "md5")}
        _say_labels(path, table, say)
    items = [_rgb_item(number, number, row) for number, row in enumerate(table)]
    return _create_rgb(config, source, items, [],
                       {"source": f"{records.path.name}, {size} bytes", **options}, say)


def _rgb_item(image_id, key, label):
    return writer.Item(image_id, key, label=label if label.size else None)


def _create_rgb(config, source, items, skipped, options, say):
    """The part that all photos without maps share."""
    label_size = len(items[0].label) if items and items[0].label is not None else 0
    recipe = writer.Recipe(source, (), config.resolution, config.fit, config.encoding, label_size)
    return _create(config, recipe, items, skipped, options, say)


def _say_labels(path, table, say):
    """What labels [n, label_size] there are, and what is empty of them."""
    if table.size:
        say(f"{path}: a label of {table.shape[1]} numbers for every image")
        _say_empty(table, say)


def _others(config, others):
    """What list_photos found besides photos, as it is written; the file of labels is none."""
    given = os.path.realpath(config.labels) if config.labels is not None else None
    return [{**entry, "id": _as_text(entry["id"])} for entry in others
            if os.path.realpath(os.path.join(config.source, entry["id"])) != given]


def _say_others(skipped, say):
    """How many files are no photos, with their commonest suffixes; and links, by reason."""
    files = [entry["id"] for entry in skipped if entry["reason"] == photo_sources.OTHER_FILE]
    if files:
        suffixes = collections.Counter(Path(name).suffix.lower() or "no suffix" for name in files)
        shown = [suffix for suffix, _ in suffixes.most_common(_SHOWN)]
        more = " ..." if len(suffixes) > _SHOWN else ""
        say(f"{len(files)} other file{'s' * (len(files) > 1)} left out ({', '.join(shown)}{more})")
    _say_reasons([entry for entry in skipped if entry["reason"] != photo_sources.OTHER_FILE], say)


def _as_text(name):
    """A file's name as an id; bytes that are not UTF-8 become escapes, so that it can be written.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def create_from_masks(config, say):
    """Photos and mask PNGs of one stem (see dataprep.masks) -> RGB + one map per class."""
    images, mask_folder, listed = masks.find_folders(config.source, config.images, config.masks,
                                                     config.classes)
    class_names = class_list.read_class_list(listed)
    pairs, unmatched = masks.match(images, mask_folder)
    skipped = [{key: _as_text(text) for key, text in entry.items()} for entry in unmatched]
    say(f"{images}: {len(pairs)} photos with a mask")
    _say_reasons(skipped, say)
    mask_source = photo_sources.PhotoFolder(mask_folder)
    seen = mask_survey.look(mask_source, list(pairs.values()), config.workers)
    classes, coding = mask_survey.decide(class_names, seen, config.ignore, say)
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(classes, 1))
    say(f"{listed}: 0 background, {numbered}")
    items = [writer.Item(_as_text(name), name, masks.Mask(mask_source, mask, coding))
             for name, mask in pairs.items()]
    recipe = writer.Recipe(photo_sources.PhotoFolder(images), classes, config.resolution,
                           config.fit, config.encoding)
    options = {"classes": list(classes), "source": masks.listing_digest(images, mask_folder, pairs)}
    if config.ignore is not None:
        options["ignore"] = config.ignore
    if coding.colours:
        options["colours"] = [list(entry) for entry in coding.colours]
    content = _create(config, recipe, items, skipped, options, say)
    if content is not None:
        _say_unseen(content, say)
    return content


def _say_unseen(content, say):
    """A warning of the classes that no image of a data set shows; `content`: its dataset.json."""
    counts = content["class_counts"].values()
    unseen = [name for name in content["classes"]
              if not any(of_split[name]["images"] for of_split in counts)]
    if unseen:
        say(f"warning: no image shows {', '.join(unseen)}: look whether the list of classes and "
            "the masks are of one set")


def _say_empty(table, say):
    """Warnings where of labels [n, label_size] some have no entry (the critic's score of an image
    is the sum of its outputs times the label), or no image has some class."""
    missing = labels.missing_classes(table)
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
        say(f"warning: no image has class {shown} (of {table.shape[1]} classes, counted from 0)")
    zeros = int((~table.any(axis=1)).sum())
    if zeros:
        say(f"warning: {zeros} labels of zeros only: training learns nothing from their images")


def _say_unused_labels(source, say):
    """A word on labels where StyleGAN2-ADA looks for them, which have to be asked for here."""
    path = Path(source) / dataset_info.FILE_NAME
    with contextlib.suppress(util.UserError):  # whatever it is then, it is no file of labels
        content = util.read_json(path)
        if isinstance(content, dict) and content.get("labels"):
            say(f"warning: the labels in {path} are not used; to use them, give "
                f"{shlex.quote(f'--labels={path}')}")


def _create_annotated(config, path, source, say, own=False):
    """The part that all annotated photos share. own: classes may be others than ModaNet's."""
    labelled = annotations.load_annotations(path, own)
    if labelled.photos and not labelled.defects and not any(
            photo.instances for photo in labelled.photos.values()):
        raise util.UserError(f"{path}: {len(labelled.photos)} images are listed, none has a "
                             "polygon; to use them as photos without labels, add --untagged")
    matched = matching.match_photos(labelled.photos, source)
    for note in labelled.notes:
        say(note)
    _say_counts(path, labelled, matched, say)
    skipped = _say_matched(labelled, matched, say) + labelled.defects
    _say_reasons(skipped, say)
    items = [writer.Item(photo.image_id, key, photo) for photo, key in matched.pairs]
    recipe = writer.Recipe(source, labelled.classes, config.resolution, config.fit, config.encoding)
    options = {"source": file_digest(path, "md5")}
    if labelled.renumbered or matched.joined or NUMBER_DIFFERS in matched.remarks:
        options["names"] = "decide"  # unlike in data sets that were made when numbers did
    return _create(config, recipe, items, skipped, options, say)


def _create_untagged(config, path, source, say, own=False):
    """An RGB data set of what _create_annotated leaves out for want of annotations."""
    labelled = annotations.load_annotations(path, own)
    matched = matching.match_untagged(labelled.photos, source)
    say(f"{path}: {len(labelled.photos)} images listed, {len(matched.pairs)} found without "
        "annotations: an RGB data set, for --untagged")
    skipped = _say_matched(labelled, matched, say)
    _say_reasons(skipped, say)
    items = [writer.Item(photo.image_id, key) for photo, key in matched.pairs]
    recipe = writer.Recipe(source, (), config.resolution, config.fit, config.encoding)
    options = {"source": file_digest(path, "md5"), "untagged": True}
    return _create(config, recipe, items, skipped, options, say)


def _say_counts(path, labelled, matched, say):
    """One line: how many images are listed and annotated, of how many the photo is there."""
    annotated = sum(bool(photo.instances) for photo in labelled.photos.values())
    listed = len(labelled.photos) + len(labelled.skipped_images)
    unusable = f", {len(labelled.skipped_images)} unusable" if labelled.skipped_images else ""
    found = len(matched.pairs) + matched.joined
    missing = sum(reason.startswith(MISSING) for reason in matched.reasons.values())
    others = annotated - found - missing
    say(f"{path}: {listed} images listed{unusable}, {len(labelled.photos) - annotated} empty, "
        f"{annotated} annotated: {found} found, {missing} missing"
        + (f", {others} in doubt" if others else ""))


def _say_matched(labelled, matched, say):
    """A line for each way in which a photo was found that is not plain; returns the image entries
    left out, [{"id", "reason"}]."""
    for kind, instances in matched.remarks.items():
        more = "; ..." if len(instances) > _SHOWN else ""
        shown = "; ".join(util.one_line(text)[:_MAX_SHOWN] for text in instances[:_SHOWN])
        say(f"  {len(instances)} x {kind} ({shown}{more})")
    if matched.joined:
        say(f"  {matched.joined} x one photo under another id: the annotations are joined")
    return labelled.skipped_images + [
        {"id": image_id, "reason": reason} for image_id, reason in matched.reasons.items()]


def _say_reasons(skipped, say):
    """One line for each reason for which something was left out."""
    reasons = collections.Counter(entry["reason"] for entry in skipped)
    for reason, count in reasons.most_common():
        say(f"  left out: {count} x {reason}")


def _create(config, recipe, items, skipped, options, say):
    """Choose, project, write, report."""
    if config.num_images is not None and config.num_images < len(items):
        order = np.random.default_rng([config.seed, 1]).permutation(len(items))
        skipped += [{"id": items[i].image_id, "reason": "not chosen (--num-images)"}
                    for i in np.sort(order[config.num_images:])]
        items = [items[i] for i in np.sort(order[:config.num_images])]
    if not items:
        raise util.UserError(f"{recipe.source.path}: there is no photo to convert")
    num_val, num_test = _split_sizes(config, len(items), bool(recipe.classes))
    options |= {"command": config.command, "seed": config.seed, "resolution": config.resolution,
                "fit": config.fit, "encoding": config.encoding, "photos": len(items),
                "num_val": num_val, "num_test": num_test}
    if writer.is_finished(config.out, options):
        say(f"{config.out} holds this data set already, finished; nothing to do (delete it to make "
            "it again)")
        writer.remove_work(config.out)  # a run killed at the very end leaves its journal
        return util.read_json(Path(config.out) / dataset_info.FILE_NAME)
    writer.check_splits(num_val, num_test, len(items))
    unreadable = preflight.count_unreadable(recipe.source, [item.key for item in items],
                                         config.workers)
    say(f"{len(items)} photos to convert, {unreadable} of them unreadable by their headers")
    if unreadable < len(items):  # else the reason of one says more
        writer.check_splits(num_val, num_test, len(items) - unreadable)
    if "untagged" not in options:
        _say_few_validation(num_val, len(items), say)
    preflight.check_space(config, len(items) - unreadable, *writer.project(recipe, items), say)
    if config.dry_run:
        say("dry run: nothing written")
        return None
    before = len(skipped)
    content = writer.write_dataset(config.out, recipe, writer.shuffled(items, config.seed),
                                   (num_val, num_test), skipped, options, config.workers, say)
    _say_reasons(skipped[before:], say)
    sizes = ", ".join(f"{len(ids)} {split}" for split, ids in content["splits"].items())
    say(f"{config.out}: {sizes}; {content['skipped']} left out "
        f"({Path(config.out) / writer.SKIPPED} lists all)")
    return content


def _say_few_validation(num_val, num_photos, say):
    """A warning where too few photos are for validation, and what to do."""
    sentence = suggestions.few_validation(num_val)
    if sentence and num_photos >= _ENOUGH * suggestions.FEW_VALIDATION:
        say(f"warning: {sentence}; --num-val={suggestions.FEW_VALIDATION} or more can")
    elif sentence and num_val:
        say(f"warning: {sentence}; --num-val=0 --num-test=0 trains with all of so few photos")


def _split_sizes(config, num_photos, annotated):
    """(validation, test) as asked, else ModaNet's for annotated photos and none for others."""
    sizes = default_splits(num_photos) if annotated else (0, 0)
    asked = config.num_val, config.num_test
    return tuple(size if given is None else given for size, given in zip(sizes, asked))


def default_splits(num_photos):
    """(validation, test): 2,000 and 5,000 on the full set, the same proportions on smaller ones."""
    if num_photos >= _FULL_FROM:
        return _VAL, _TEST
    return round(num_photos * _VAL / _ALL), round(num_photos * _TEST / _ALL)
