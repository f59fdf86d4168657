"""Measure how fast data sets are made and read: the whole conversion, its stages, its memory, the
stream that training reads. Photos are those of --source, repeated if more are needed."""

import collections
import contextlib
import functools
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL

from benchmarks.processes import run_measured
from benchmarks.result import ROOT, cpu_name, report
from dataprep import conversion, photo_sources, raw_files
from dataprep.coco import annotations
from dataprep.drawing import synthetic
from dnnlib import cli, process_pool, util
from dnnlib.data import channels, coco, pyramid, tfrecords

# The timed functions, in the order of the table: (module, name there) -> stage. A stage's time
# excludes the stages that it calls.
STAGES = {
    ("dnnlib.data.photos", "decode_photo"): "JPEG decoding",
    ("dataprep.coco.segmentations", "label_map_and_overlap"): "polygons",
    ("dnnlib.data.pyramid", "build_image"): "resizing",
    ("dnnlib.data.pyramid", "levels"): "pyramid",
    ("dnnlib.data.tfrecords", "_encode_rgb"): "colours",
    ("zlib", "compress"): "zlib of the maps",
    ("dnnlib.data.tfrecords", "encode_record"): "joining",
    ("dnnlib.data.tfrecords", "checksum"): "CRC",
    ("dnnlib.data.tfrecords", "frame"): "framing",
    ("dataprep.conversion", "digest_and_shares"): "digest, area shares",
    ("dataprep.conversion", "convert_photo"): "reading the file",
}
READ_AHEAD = 12  # minibatches to skip: about as many as a stream has ready after a pause
DRAWN = 60  # different photos without --source
MINIBATCH = {512: 16, 256: 32, 128: 32, 64: 64}  # of the stream; 128 at lower resolutions

EXAMPLES = """\
  python -m benchmarks.dataset --source=~/modanet --num-images=800
  python -m benchmarks.dataset --num-images=100 --resolution=64 --out=dataset.json
  python -m benchmarks.dataset --source=~/modanet --num-images=800 --plan=52377
"""


def main(argv):
    """Measure, print and, with --out, write JSON. Return the exit status."""
    options = parse_options(argv)
    result = {"photos": str(options.source or "drawn"), "resolution": options.resolution,
              "encoding": options.encoding, "workers": options.workers, "cpu": cpu_name(),
              "versions": {"python": platform.python_version(), "numpy": np.__version__,
                           "pillow": PIL.__version__},
              "load_average_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(options.source or Path(folder) / "drawn").expanduser()
        if not options.source:
            drawing = synthetic.Drawing(min(DRAWN, options.num_images), 0)
            synthetic.draw_all(source, drawing, options.workers)
        result["stages_ms"] = measure_stages(source, options)
        result |= measure_conversions(source, Path(folder), options)
        result["reading"] = measure_reading(Path(folder) / f"out{options.num_images}", options)
        if options.plan:
            result["plan"] = measure_plan(source, Path(folder), options)
    result["load_average_after"] = round(os.getloadavg()[0], 2)
    report(result, options.out)
    return 0


def parse_options(argv):
    """Parse the command line. Raises UserError if a number is out of range."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--source", metavar="DIR", help="photos in ModaNet's layout: annotations/ and images/ "
        "(default: drawn figures)")
    add("--num-images", type=int, default=400, metavar="N", help="photos of the larger of two "
        "conversions; the smaller has a quarter")
    add("--resolution", type=int, default=512, metavar="N", help="side of the largest level")
    add("--encoding", choices=tfrecords.ENCODINGS, default="webp", help="encoding of the records")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes of the conversion")
    add("--rounds", type=int, default=5, help="rounds of reading at each resolution, alternating")
    add("--round-sec", type=float, default=2.0, metavar="SEC", help="length of a round")
    add("--plan", type=int, default=0, metavar="N", help="also measure a dry run of N photos")
    add("--out", metavar="FILE", help="also write the JSON to this file")
    options = parser.parse_args(argv)
    if options.num_images < 20 or options.rounds < 1 or options.workers < 1 or options.plan < 0:
        raise util.UserError("--num-images must be 20 or more, --rounds and --workers 1 or more, "
                             "--plan 0 or more")
    return options


# Stages

def measure_stages(source, options):
    """Return {stage: milliseconds of processor time per photo}, in one process, after a warm-up."""
    process_pool.reuse_freed_memory()  # as in the workers
    labelled = annotations.load_annotations(source / "annotations" / raw_files.TRAIN_JSON)
    folder = photo_sources.open_photos(source / "images")
    items = [conversion.Item(image_id, folder.find(image_id, photo.file_name).key, photo)
             for image_id, photo in sorted(labelled.photos.items()) if photo.instances]
    items = items[:max(1, options.num_images // 4)]
    spec = conversion.ConversionSpec(folder, coco.MODANET_CLASSES, options.resolution,
                                     pyramid.FITS[0], options.encoding)
    times = collections.Counter()
    for item in items[:5]:
        conversion.convert_photo(spec, item)
    with timed_functions(STAGES, times):
        for item in util.progress(items, desc="stages", unit="photo"):
            conversion.convert_photo(spec, item)
    stages = {stage: round(times[stage] / len(items) * 1e3, 3) for stage in STAGES.values()}
    return stages | {"sum": round(sum(times.values()) / len(items) * 1e3, 3)}


@contextlib.contextmanager
def timed_functions(stages, times):
    """Make the functions {(module, name): stage} add their processor time to `times`
    {stage: seconds}, without that of the timed functions that they call."""
    inner = [0.0]  # for each running function: the time of the functions that it has called

    def timed(function, stage):
        @functools.wraps(function)
        def call(*args, **kwargs):
            inner.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - started
                times[stage] += spent - inner.pop()
                inner[-1] += spent
        return call

    places = [(importlib.import_module(module), name) for module, name in stages]
    originals = [getattr(module, name) for module, name in places]
    try:
        for (module, name), function, stage in zip(places, originals, stages.values()):
            setattr(module, name, timed(function, stage))
        yield
    finally:
        for (module, name), function in zip(places, originals):
            setattr(module, name, function)


# The whole conversion

def measure_conversions(source, folder, options):
    """Convert a quarter of the photos, then all, by the command itself; return throughput, bytes
    and memory of both conversions."""
    counts = [options.num_images // 4, options.num_images]
    runs = {}
    for count in util.progress(counts, desc="conversions", unit="run"):
        raw, out = folder / f"raw{count}", folder / f"out{count}"
        make_source(source, raw, count)
        runs[count] = run_measured(create_command(raw, out, options), ROOT)
        shutil.rmtree(raw)
    few, many = (runs[count] for count in counts)
    more, content = counts[1] - counts[0], util.read_json(out / "dataset.json")
    photos = sum(map(len, content["splits"].values()))
    sizes = collections.Counter()
    for path in out.glob("*/*.tfrecords"):
        sizes[str(1 << int(path.stem[-2:]))] += path.stat().st_size / photos / 1e6
    return {
        "conversions": {count: {key: round(value, 2) for key, value in run.items()}
                        for count, run in runs.items()},
        "photos_per_sec": round(counts[1] / many["wall_sec"], 1),
        "photos_per_sec_without_start": round(more / (many["wall_sec"] - few["wall_sec"]), 1),
        "cpu_ms_per_photo": round((many["cpu_sec"] - few["cpu_sec"]) / more * 1e3, 2),
        "mb_per_photo": round(sum(sizes.values()), 4),
        "mb_per_photo_by_resolution": {side: round(sizes[side], 5)
                                       for side in sorted(sizes, key=int, reverse=True)}}


def create_command(raw, out, options):
    """Return the command line of a conversion."""
    return [sys.executable, "dataset_tool.py", "create_modanet", f"--source={raw}", f"--out={out}",
            f"--resolution={options.resolution}", f"--encoding={options.encoding}",
            f"--workers={options.workers}"]


def make_source(source, raw, count):
    """Write a folder `raw` of `count` annotated photos: those of `source` that have annotations,
    repeated as needed. Repeated photos are hard links to one copy."""
    content = util.read_json(source / "annotations" / raw_files.TRAIN_JSON)
    parts = collections.defaultdict(list)
    for entry in content["annotations"]:
        parts[entry["image_id"]].append(entry)
    images = [entry for entry in content["images"] if parts[entry["id"]]]
    (raw / "images").mkdir(parents=True)
    result = content | {"images": [], "annotations": []}
    for image_id in range(1, count + 1):
        place = (image_id - 1) % len(images)
        name, first = f"{image_id:07d}.jpg", f"{place + 1:07d}.jpg"
        if image_id == place + 1:
            shutil.copyfile(source / "images" / images[place]["file_name"], raw / "images" / name)
        else:
            os.link(raw / "images" / first, raw / "images" / name)
        result["images"].append(images[place] | {"id": image_id, "file_name": name})
        result["annotations"] += [entry | {"id": len(result["annotations"]) + i,
                                           "image_id": image_id}
                                  for i, entry in enumerate(parts[images[place]["id"]], 1)]
    util.atomic_write(raw / "annotations" / raw_files.TRAIN_JSON,
                      json.dumps(result, separators=(",", ":")))


def measure_plan(source, folder, options):
    """Return time and memory of what the command does before it writes, for `options.plan` photos.
    """
    raw = folder / "planned"
    make_source(source, raw, options.plan)
    command = create_command(raw, folder / "nowhere", options) + ["--dry-run"]
    run = run_measured(command, ROOT)
    size = (raw / "annotations" / raw_files.TRAIN_JSON).stat().st_size
    return {"photos": options.plan, "annotations_mb": round(size / 1e6, 1)} | {
        key: round(value, 2) for key, value in run.items()}


# Reading

def measure_reading(data, options):
    """Return {resolution: {"images_per_sec", ...}} of training's stream with all channels.

    Rounds at the resolutions alternate; the files have been read before, so they are in memory.
    """
    from training.dataset import TrainingStream  # here: it imports TensorFlow, which takes seconds
    num_channels = channels.num_channels(coco.MODANET_CLASSES)
    rounds = {}
    for resolution in sorted({options.resolution, min(32, options.resolution)}):
        minibatch = MINIBATCH.get(resolution, 128)
        stream = iter(TrainingStream([data], resolution=resolution, num_channels=num_channels,
                                     minibatch=minibatch, seed=0))
        rounds[resolution] = (minibatch, stream, [])
        next(stream)  # traces the function
    for _ in util.progress(range(options.rounds), desc="reading", unit="round"):
        for minibatch, stream, measured in rounds.values():
            measured.append(read_for(stream, minibatch, options.round_sec))
    return {resolution: reading_summary(minibatch, measured)
            for resolution, (minibatch, _, measured) in rounds.items()}


def read_for(stream, minibatch, seconds):
    """Read for at least `seconds`; return (images, wall seconds, processor seconds)."""
    for _ in range(READ_AHEAD):
        next(stream)
    wall, cpu, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        next(stream)
        images += minibatch
    return images, time.perf_counter() - wall, time.process_time() - cpu


def reading_summary(minibatch, measured):
    """Return medians over rounds [(images, wall seconds, processor seconds)], and the best rate."""
    images, wall, cpu = np.array(measured, np.float64).T
    return {"minibatch": minibatch,
            "images_per_sec": round(float(np.median(images / wall)), 1),
            "images_per_sec_best": round(float((images / wall).max()), 1),
            "cpu_ms_per_image": round(float(np.median(cpu / images)) * 1e3, 4)}


if __name__ == "__main__":
    cli.run_main(main)
