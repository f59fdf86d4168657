"""Checks of reals, schedule and record files against reference vectors."""

import functools
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib.data import dataset, pictures, pyramid, tfrecords
from dnnlib.data.dataset import FILE_NAME, labels_path, read_labels, read_split
from dnnlib.util import write_json
from tests.oracles.vector_files import (
    elements,
    enlarge,
    exactly,
    integers,
    lod_of,
    losses,
    nchw,
    nhwc,
    same,
)
from training.config import TrainingConfig
from training.dataset import TrainingStream, adjust_dynamic_range, fade_reals, permutation
from training.gan.schedule import training_schedule

# ---------------------------------------------------------------------------- images


def check_reals(vectors):
    """Check processing of reals (all channels as colours), and conversions from and to uint8."""
    arrays = vectors.load("process_reals")
    if arrays is None:
        return
    for name in arrays:
        if match := re.fullmatch(r"reals_(c\d+)_lod[\dp]+", name):
            lod = lod_of(name)
            x = adjust_dynamic_range(nhwc(arrays[f"x_uint8_{match[1]}"]), [0, 255], [-1, 1])
            ours = enlarge(fade_reals(x, tf.constant(lod - int(lod), tf.float32)), int(lod))
            yield elements("reals", name, nchw(ours), arrays[name])
    levels = np.arange(256, dtype=np.float32)
    name = "adjust_dynamic_range_0_255_to_m1_1"
    yield elements("dynamic range", name, adjust_dynamic_range(levels, [0, 255], [-1, 1]),
                   arrays[name])
    # The official function subtracts drange[0] where it should add it: (x + 1) * 2 / 255 for
    # [-1, 1]. Its numbers can be derived from correct ones; there is no such function here.
    name = "convert_images_from_uint8_0_255"
    ours = adjust_dynamic_range(levels, [0, 255], [-1, 1]) + np.float32(1 + 2 / 255)
    yield elements("dynamic range", name, ours, arrays[name].reshape(-1))
    values = arrays["to_pil_input"]
    yield integers("uint8 conversion", "to_pil_uint8", pictures.to_uint8(values),
                   arrays["to_pil_uint8_of_m1_1"])
    name = "convert_images_to_uint8_of_to_pil_input"
    yield integers("uint8 conversion", name, pictures.to_uint8_metrics(values),
                   arrays[name].reshape(-1))


# ---------------------------------------------------------------------------- schedule


COLUMNS = ["lod", "resolution", "minibatch", "G_lrate", "D_lrate", "tick_kimg"]
DEFAULTS = {"initial_resolution": 4, "minibatch": {4: 16}, "lrate": {4: 0.001}}
RAMPED = "res512 lrate_rampup_kimg=1000, 1 gpu"
VARIANTS = {  # {name of a variant: its options of TrainingConfig}
    "res512 function defaults (no overrides), 1 gpu": {},
    RAMPED: {},
    "res512 num_gpus=3 minibatch_base=16 (minibatch rounded down to multiple of gpus), "
    "max_minibatch_per_gpu={128:4}": {"minibatch": {4: 15, 128: 12, 256: 15}},
    "res512 lod_training_kimg=0 lod_transition_kimg=0 lod_initial_resolution=512":
        {"hold_kimg": 0, "fade_kimg": 0, "initial_resolution": 512},
    "res512 lod_transition_kimg=0 lod_initial_resolution=8":
        {"fade_kimg": 0, "initial_resolution": 8},
}


def check_schedule(vectors):
    """Check lod, resolution, minibatch, learning rates and tick length of every stored run."""
    table = vectors.load_json("schedule")
    if table is None:
        return
    vectors.excuse(["schedule.json/note"], "text")
    for key in table["runs"]:
        resolution, gpus = re.fullmatch(r"res(\d+)_gpus(\d+)", key).groups()
        settings = table["minibatch_settings"][gpus]
        minibatch = {int(k): settings["minibatch_dict"][k] for k in settings["minibatch_dict"]}
        minibatch.setdefault(2 * max(minibatch), settings["minibatch_base"])
        ours = _schedule(table, resolution=int(resolution), minibatch=minibatch,
                         lrate={4: 0.001, 128: 0.0015, 256: 0.002, 512: 0.003})
        yield _same_rows("schedule", key, ours, table["runs"][key])
    for key in table.get("variants", ()):
        if key not in VARIANTS:
            continue  # and reported, like everything that is not looked up
        ours = _schedule(table, resolution=512, **{**DEFAULTS, **VARIANTS[key]})
        if key == RAMPED:  # there is no such option here; the ramp is min(kimg / 1000, 1)
            ours[:, 3:5] *= np.minimum(np.array(table["cur_nimg"]) / 1e6, 1)[:, None]
        yield _same_rows("schedule, variants", key, ours, table["variants"][key])


def _same_rows(quantity, item, ours, run):
    if run["columns"] != COLUMNS:
        raise ValueError(f"schedule.json: columns {run['columns']}, expected {COLUMNS}")
    return elements(quantity, item, ours, run["rows"])._replace(tolerance=1e-9)


def _schedule(table, **options):
    """Return the rows of our schedule for TrainingConfig(**options)."""
    config = TrainingConfig(variant="rgb", **options)
    stages = [training_schedule(config, 0, nimg) for nimg in table["cur_nimg"]]
    return np.array([[s.lod, s.resolution, s.minibatch, s.lrate, s.lrate, s.tick_kimg]
                     for s in stages])


# ---------------------------------------------------------------------------- record files


def check_tfrecords(vectors):
    """Check levels, files to the byte, contents by our readers, labels, order."""
    contents, about = vectors.load("tfrecords_contents"), vectors.load_json("tfrecords")
    if contents is None or about is None:
        return
    order = about["shuffled_order_seed123"]
    yield exactly("records, order", "order", order, contents["order"])
    images, labels = contents["source_images"][order], contents["source_labels"][order]
    paths = {path.name: vectors.path(path.relative_to(vectors.folder).as_posix())
             for path in sorted(vectors.folder.glob("tfrecords_*/*/*"))}
    levels = [pyramid.levels(image, tfrecords.MIN_LEVEL) for image in images]
    for name in about["files"]:
        path, file = paths[name], about["files"][name]
        if path.suffix == ".labels":
            content = _label_file(labels)
        else:
            level = int(re.search(r"-r(\d+)\.", name)[1])
            for i, by_level in enumerate(levels):
                key = f"{name}/{i}"
                yield exactly("records, levels", key, by_level[level], contents[key])
            content = b"".join(tfrecords.frame(tfrecords.encode_record(by_level[level], "raw"))
                               for by_level in levels)
            yield from _check_records(tfrecords.RecordFile(path), file["records"], contents, name)
        yield same("records, files to the byte", name, content, path.read_bytes())
        yield same("records, size and hash", name,
                   (len(content), vectors.sha256(path)), (file["size"], file["sha256"]))
    yield from _check_reader(vectors, paths)


def _label_file(labels):
    """Return the bytes of a label file by our writer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.labels"
        dataset.write_labels(path, list(labels), labels.shape[1])
        return path.read_bytes()


def _check_records(file, records, contents, name):
    """Compare a file's payloads with tfrecords.json, and its images as our reader decodes them."""
    yield same("records, described", f"{name}, number", len(file), len(records))
    for i, record in enumerate(records):
        payload, key = file.read(i), f"{name}/{i}"
        features = tf.train.Example.FromString(payload).features.feature
        lengths = [len(value) for value in features["data"].bytes_list.value]
        head = payload[:len(record["head_hex"]) // 2].hex()
        ours = {"record_bytes": len(payload), "head_hex": head, "features": {
            "shape": {"int64_list": list(features["shape"].int64_list.value)},
            "data": {"bytes_list_lens": lengths}}}
        yield same("records, described", key, ours, record)
        yield exactly("records, decoded", key, file.read_image(i), contents[key])


def _check_reader(vectors, paths):
    """Check our readers on a data set of the official files."""
    arrays = vectors.load("tfrecords_reader")
    if arrays is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        count, label_size = arrays["labels_lod0"].shape
        _make_dataset(data, paths, count, label_size, arrays["images_lod0"].shape[2])
        for name in arrays:
            if match := re.fullmatch(r"images_lod(\d+)", name):
                resolution = arrays[name].shape[2]
                ours = np.concatenate(list(read_split(data, "train", resolution)))
                yield exactly("records, reader", name, nchw(ours), arrays[name])
                name = f"labels_lod{match[1]}"
                yield exactly("records, labels", name, read_labels(data, "train"), arrays[name])
        first, second = "first_batch_of_2_then_2", "second_batch_of_2"
        batches = iter(TrainingStream([data], resolution=arrays[first].shape[2], num_channels=3,
                                      minibatch=2, seed=_unshuffled_seed(count)))
        for name, rows in ((first, [0, 1]), (second, [2, 0])):
            images, labels = next(batches)
            yield exactly("records, reader", name, nchw(images), arrays[name])
            yield exactly("records, labels", name, labels, arrays["labels_lod0"][rows])


def _make_dataset(folder, paths, count, label_size, resolution):
    """Make a data set of ours with the official files as its training split."""
    (folder / "train").mkdir()
    for name, path in paths.items():
        target = (labels_path(folder, "train") if path.suffix == ".labels"
                  else folder / "train" / name)
        shutil.copyfile(path, target)
    write_json(folder / FILE_NAME, {
        "format_version": 1, "complete": True, "name": "tiny", "resolution": resolution,
        "num_channels": 3, "classes": [], "splits": {"train": list(range(count))},
        "label_size": label_size, "digest": "0" * 64})


@functools.cache
def _unshuffled_seed(count):
    """Return a seed with which the first two epochs of `count` records are in the files' order."""
    in_order = list(range(count))
    return next(seed for seed in range(100_000)
                if all(list(permutation(seed, epoch, count)) == in_order for epoch in (0, 1)))


# ---------------------------------------------------------------------------- descriptions


def check_descriptions(vectors):
    """Check the JSON files that describe the arrays: shapes, types, norms, configuration."""
    for name in (vectors.tag, "misc"):
        about = vectors.load_json(name)
        for key in about or ():
            if key.endswith(".npz"):
                yield from _check_description(vectors, f"{name}.json/{key}", about[key], key)
    about = vectors.load_json(vectors.tag)
    if about is not None:
        yield from _check_configuration(vectors, about)


def _check_description(vectors, where, about, file):
    """Check that one file's arrays match their description."""
    vectors.excuse([f"{where}/description"], "text")
    path = vectors.folder / file
    if not path.is_file():
        names = [f"{where}/arrays/{k}/{entry}" for k in about["arrays"]
                 for entry in about["arrays"][k]]
        vectors.excuse(names, f"{file} is not in the folder")
        return
    with np.load(path) as arrays:
        yield same("described arrays", file, set(arrays.files), set(about["arrays"]))
        for key in arrays.files:
            described, value = about["arrays"][key], arrays[key]
            yield same("described arrays", f"{file}/{key}", (list(value.shape), str(value.dtype)),
                       (described["shape"], described["dtype"]))
            if "l2" in described:
                norm = np.linalg.norm(value.astype(np.float64))
                yield losses("described norms", f"{file}/{key}", norm, described["l2"])


def _check_configuration(vectors, about):
    """Check names of trainable variables and keywords against networks of the stored arrays."""
    tag = vectors.tag
    vectors.excuse([f"{tag}.json/{tag}_seed"], "of the official release's generators")
    left_out = {"randomize_noise", "style_mixing_prob", "dlatent_avg_beta"}
    vectors.excuse([f"{tag}.json/{tag}_kwargs/G/{name}" for name in left_out],
                   "chosen per call, or of training")
    for network in vectors.networks():
        name, kwargs = network.name, about[f"{tag}_kwargs"][network.name]
        known = network.config.keys() - left_out
        yield same("described trainables", name, sorted(network.trainables),
                   sorted(about[f"{tag}_trainable"][name]))
        for key in kwargs.keys() & known:
            yield same("described keywords", f"{name}/{key}", network.config[key], kwargs[key])
