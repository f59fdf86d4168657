"""Helpers of the data tests: small data sets of given pixels, small sources of photos."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from dataprep.coco.segmentations import label_map_and_overlap
from dnnlib.data import pyramid, tfrecords

FOUR = ("hat", "coat", "legs", "shoes")  # class names other than ModaNet's


def random_image(rng, num_channels, resolution):
    """Return uint8 [C, H, W]: noise as colours, a partition into C - 2 regions as maps."""
    image = rng.integers(0, 256, (num_channels, resolution, resolution), dtype=np.uint8)
    labels = rng.integers(0, num_channels - 2, (resolution, resolution))
    for i in range(3, num_channels):
        image[i] = 255 * (labels == i - 2)
    return image


def label_map(photo, size):
    """Return a photo's label map uint8 [h, w] for a picture of `size` = (w, h)."""
    return label_map_and_overlap(photo, size)[0]


def one_hot(label_map, num_classes):
    """Convert a label map [...] uint8 to segmaps [..., C] uint8, 255 where the class is present."""
    return np.uint8(255) * (label_map[..., None] == np.arange(1, num_classes + 1))


def make_dataset(path, images, classes=FOUR, encoding="webp", labels=None):
    """Write {split: uint8 [N, C, H, W]} as a finished data set; labels: {split: [N, label_size]}.
    """
    splits = {}
    for split, stack in images.items():
        splits[split] = list(range(len(stack)))
        (path / split).mkdir(parents=True)
        for image in stack:
            for level, smaller in pyramid.levels(image, tfrecords.MIN_LEVEL).items():
                with open(path / split / f"{split}-r{level:02d}.tfrecords", "ab") as file:
                    file.write(tfrecords.frame(tfrecords.encode_record(smaller, encoding)))
    for split, table in (labels or {}).items():
        with open(path / split / f"{split}-rxx.labels", "wb") as file:
            np.save(file, np.asarray(table, np.float32))
    resolution = next(iter(images.values())).shape[2]
    content = {"format_version": 1, "complete": True, "name": path.name, "resolution": resolution,
               "num_channels": 3 + len(classes), "classes": list(classes), "encoding": encoding,
               "splits": splits, "digest": "0" * 64, "skipped": 0, "class_counts": {},
               "options": {}}
    if labels:
        content["label_size"] = next(iter(labels.values())).shape[1]
    (path / "dataset.json").write_text(json.dumps(content))
    return path


def tagged_and_untagged(root, resolution, num):
    """Make two data sets, `num` images with FOUR's maps and five photos without; return paths."""
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, resolution) for _ in range(num)])
    photos = np.stack([random_image(rng, 7, resolution)[:3] for _ in range(5)])
    return (make_dataset(root / "tagged", {"train": images}, FOUR),
            make_dataset(root / "untagged", {"train": photos}, ()))


def photo_bytes(rng, width, height, kind="JPEG", **options):
    """Return an image file of smooth noise."""
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def make_source(path, num, seed=0, width=40, height=60):
    """Make a folder in ModaNet's layout: `num` photos with one or two rectangles, ids from 7."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (path / "images").mkdir(parents=True)
    (path / "annotations").mkdir()
    for image_id in range(7, 7 + num):
        name = f"{image_id:07d}.jpg"
        (path / "images" / name).write_bytes(photo_bytes(rng, width, height, quality=95))
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for _ in range(rng.integers(1, 3)):
            x, y = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
            w, h = int(rng.integers(6, width // 2)), int(rng.integers(6, height // 2))
            annotations.append({"id": len(annotations), "image_id": image_id, "iscrowd": 0,
                                "category_id": int(rng.integers(1, 14)), "area": w * h,
                                "bbox": [x, y, w, h],
                                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    save_annotations(path, {"images": images, "annotations": annotations})
    return path


def annotations_path(source):
    """Return the path of a source's annotations."""
    return Path(source) / "annotations" / "modanet2018_instances_train.json"


def save_annotations(source, content):
    """Write the annotations of a source."""
    annotations_path(source).write_text(json.dumps(content))


def create_config(**changes):
    """Return the options of a create command, small and with one worker."""
    options = dict(command="create_modanet", source="", annotations=None, images=None, out="",
                   resolution=16, fit="pad", encoding="webp", num_images=None, num_val=None,
                   num_test=None, labels=None, untagged=False, only_classes=None,
                   ignore=None, keypoints=None, pairs=None, poses=1, seed=0, workers=1,
                   runner=None, dry_run=False)
    return SimpleNamespace(**{**options, **{k: str(v) if isinstance(v, Path) else v
                                            for k, v in changes.items()}})


def folder_bytes(path):
    """Return {relative name: content} of all files below a folder."""
    return {file.relative_to(path).as_posix(): file.read_bytes()
            for file in sorted(Path(path).rglob("*")) if file.is_file()}


def read_jsonl(path):
    """Return all records of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
