"""What the dataset tool's create commands do, from finding the photos to the finished data set.

`config` is the parsed command line; `say` prints a line for the user. Each command returns the
content of dataset.json, or None after a dry run.
"""

import collections
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np

from dataprep import (
    annotations,
    labels,
    masks,
    matching,
    modanet,
    sources,
    survey,
    synthetic,
    writer,
)
from dataprep.photo_names import MISSING, NUMBER_DIFFERS
from dnnlib import dataset_info, util
from dnnlib.download import file_digest

# ModaNet's own split. From _FULL_FROM photos on it is taken as it is, below in proportion.
_ALL, _VAL, _TEST, _FULL_FROM = 52_346, 2_000, 5_000, 50_000
_SAMPLE = 4  # photos that a dry run draws
_SHOWN, _MAX_SHOWN = 3, 200  # examples in a line, characters of one


def create_modanet(config, say):
    """Photos and COCO annotations -> a data set of RGB + one map per class; with `config.untagged`
    an RGB data set of the photos that are listed without annotations."""
    name = modanet.VAL_JSON if config.untagged else modanet.TRAIN_JSON
    path, photos = modanet.find_raw(config.source, config.annotations, config.images, say, name)
    create = _create_untagged if config.untagged else _create_annotated
    return create(config, path, sources.open_source(photos), say)


def create_from_coco(config, say):
    """Photos and COCO annotations of any classes -> as create_modanet."""
    path, photos = modanet.find_coco(config.source, config.annotations, config.images)
    create = _create_untagged if config.untagged else _create_annotated
    return create(config, path, sources.open_source(photos), say, own=True)


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
    return _create_annotated(config, path, sources.PhotoFolder(raw / "images"), say)


def _project_drawing(config, say):
    """Size and time of drawing and converting, from a few photos drawn elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = synthetic.draw_all(folder, _SAMPLE, config.seed, workers=1)
        seconds = (time.perf_counter() - started) / _SAMPLE
        source, classes = sources.PhotoFolder(Path(folder) / "images"), annotations.MODANET_CLASSES
        items = [writer.Item(photo.image_id, key, photo) for photo, key in matching.match_photos(
            annotations.load_annotations(path).photos, source).pairs]
        recipe = writer.Recipe(source, classes, config.resolution, config.fit, config.encoding)
        size, more = writer.project(recipe, items)
        drawn = sum(file.stat().st_size for file in source.path.iterdir()) / _SAMPLE
        survey.check_space(config, config.num_images, size + drawn, seconds + more, say)


def create_from_images(config, say):
    """Any folder of photos -> an RGB data set whose ids are the files' names; with `config.labels`
    (see dataprep.labels) every image has its conditioning label."""
    names = sources.list_images(config.source)
    say(f"{config.source}: {len(names)} image files")
    listed = hashlib.md5("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    items, options, label_size = [writer.Item(_as_text(name), name) for name in names], {}, 0
    if config.labels is not None:
        table = labels.read_label_file(config.labels, names)
        label_size = table.shape[1]
        items = [writer.Item(_as_text(name), name, label=row) for name, row in zip(names, table)]
        options = {"labels": file_digest(config.labels, "md5")}
        say(f"{config.labels}: a label of {label_size} numbers for every image")
        _say_zeros(table, say)
    recipe = writer.Recipe(sources.PhotoFolder(Path(config.source)), (), config.resolution,
                           config.fit, config.encoding, label_size)
    return _create(config, recipe, items, [], {"source": listed, **options}, say)


def _as_text(name):
    """A file's name as an id; bytes that are not UTF-8 become escapes, so that it can be written.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def create_from_masks(config, say):
    """Photos and index-mask PNGs of one stem (see dataprep.masks) -> RGB + one map per class."""
    images, mask_folder, listed = masks.find_folders(config.source, config.images, config.masks,
                                                     config.classes)
    classes = masks.read_classes(listed)
    pairs, unmatched = masks.match(images, mask_folder)
    skipped = [{**entry, "id": _as_text(entry["id"])} for entry in unmatched]
    say(f"{images}: {len(pairs)} photos with a mask, {len(classes)} classes")
    if len(classes) < masks.IGNORE:
        say(f"mask value {masks.IGNORE} counts as background")
    _say_reasons(skipped, say)
    mask_source = sources.PhotoFolder(mask_folder)
    items = [writer.Item(_as_text(name), name, masks.Mask(mask_source, mask, len(classes)))
             for name, mask in pairs.items()]
    recipe = writer.Recipe(sources.PhotoFolder(images), classes, config.resolution, config.fit,
                           config.encoding)
    options = {"classes": list(classes), "source": masks.listing_digest(images, mask_folder, pairs)}
    return _create(config, recipe, items, skipped, options, say)


def _say_zeros(table, say):
    """A warning where labels [n, label_size] have no entry: the critic's score of an image is the
    sum of its outputs times the label."""
    zeros = int((~table.any(axis=1)).sum())
    if zeros:
        say(f"warning: {zeros} labels of zeros only: training learns nothing from their images")


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
    splits = writer.choose_splits(items, num_val, num_test, config.seed)
    unreadable = survey.count_unreadable(recipe.source, [item.key for item in items],
                                         config.workers)
    say(f"{len(items)} photos to convert, {unreadable} of them unreadable by their headers")
    survey.check_space(config, len(items) - unreadable, *writer.project(recipe, items), say)
    if config.dry_run:
        say("dry run: nothing written")
        return None
    before = len(skipped)
    content = writer.write_dataset(config.out, recipe, splits, skipped, options, config.workers,
                                   say)
    _say_reasons(skipped[before:], say)
    sizes = ", ".join(f"{len(ids)} {split}" for split, ids in content["splits"].items())
    say(f"{config.out}: {sizes}; {content['skipped']} left out "
        f"({Path(config.out) / writer.SKIPPED} lists all)")
    return content


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
