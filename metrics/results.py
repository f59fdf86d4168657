"""Compute metrics of generated images, print them, and record them with all that defines them."""

import collections
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dnnlib import util
from dnnlib.charts import bar_chart
from dnnlib.download import cache_dir
from dnnlib.util import UserError
from metrics import metric_base
from metrics.features import (
    MIN_AREA,
    MINIBATCH,
    FeatureSet,
    feature_set,
    source_features,
    source_maps,
)
from metrics.image_sources import ImageSource, most_common_sizes, warn
from metrics.label_agreement import iou_table, miou_values, rare_lines, rare_table
from metrics.map_quality import MEASURES, MapMeasure, class_table
from metrics.metric_base import Metric


@dataclass(frozen=True)
class GeneratedImages:
    """The images to evaluate.

    generate: function (count) -> iterator over (rgb uint8 [n, H, W, 3], label maps uint8 [n, H, W]
    or None) and, for photos drawn from maps or in poses, the corresponding real photos, as rgb.
    paths: function (space, sampling, num_samples) -> mean path length, if requested.
    """

    generate: Callable
    about: dict  # what a result records about them
    folder: Path  # where results are written
    sizes: collections.Counter  # {(width, height): number of images}
    limit: int | None = None  # number of images; None: unlimited
    classes: tuple = ()  # names of the labels 1..C; () without label maps
    paths: Callable | None = None
    about_paths: dict | None = None  # what a result of paths records in addition
    originals: dict | None = None  # what a result records about the real photos in `generate`


def needed_detector(metrics: list[Metric], weights: str | None, minibatch: int = MINIBATCH,
                    report: Callable[[str], None] = print, needed: object = None) -> Any:
    """Return the Inception network for the metrics, or if it is `needed` otherwise; None if nothing
    uses it. weights: file of Inception weights; None finds or fetches them."""
    if not needed and not any(metric.uses_detector for metric in metrics):
        return None
    # Imported here so that --help and wrong options answer at once.
    from metrics.networks.inception import load_detector

    need_logits = any(metric.uses == "logits" for metric in metrics)
    return load_detector(weights, need_logits, minibatch, report)


def find_detector(metrics: list[Metric], weights: str | None, minibatch: int,
                  needed: object = None) -> tuple[Any, list[Metric]]:
    """Return the `needed_detector` and the metrics that can be computed; warn of the others. Raises
    UserError if none can be computed."""
    detector = needed_detector(metrics, weights, minibatch, needed=needed)
    possible = metric_base.select_computable(metrics, detector,
                                             lambda reason: warn(f"skipped: {reason}"))
    if metrics and not possible and not needed:
        raise UserError(f"none of {', '.join(metric.name for metric in metrics)} can be computed "
                        "with these weights")
    return detector, possible


def evaluate(metrics: list[Metric], fakes: GeneratedImages, reals: dict[str, ImageSource],
             detector: Any, *, command: str, minibatch: int, min_area: float = MIN_AREA,
             floor: bool = False, known: dict[str, MapMeasure] = MEASURES) -> None:
    """Compute metrics, print every value, append every record to metric-<name>.jsonl.

    reals: {SPLIT, FULL or TRAIN_VAL: images} with all that the metrics compare with. floor: also
    compute each metric between two halves of the reals. known: all measures of pairs by name.
    command, minibatch: for the records. Raises UserError if maps that a metric needs are missing,
    or if there are too few images.
    """
    start = time.monotonic()
    # Report what does not fit together before anything is computed.
    warn_sizes(fakes.sizes, reals)
    check_classes(metrics, fakes.classes, reals)
    num_reals = {kind: source.count for kind, source in reals.items()}
    metric_base.check_counts(metrics, fakes.limit, num_reals)
    metrics = limit_all(metrics, fakes.limit)
    real_sets = measure_reals(metrics, reals, detector, min_area, warn, known)
    floors = {}
    for metric in (metric for metric in metrics if floor and metric.reals):
        values, half = metric_base.compute_floor(metric, real_sets[metric.reals], detector, warn)
        floors[metric.name] = {"results": values, "num_each": half}
        print(f"floor {_format(values)}  (two halves of the reals, {half:,} each)")
    fake_set = metric_base.measure_fakes(metrics, fakes.generate, detector, fakes.limit,
                                         len(fakes.classes), min_area, known)
    for metric in metrics:
        if metric.uses == "paths":
            record = {"metric": metric.name,
                      "results": metric_base.compute_paths(metric, fakes.paths),
                      "num_pairs": metric.count, **fakes.about, **fakes.about_paths}
        else:
            real_set, source = real_sets.get(metric.reals), reals.get(metric.reals)
            some = fake_set[:metric.count]
            record = {"metric": metric.name,
                      "results": metric_base.compute(metric, some, real_set, detector, warn),
                      "num_fakes": len(some), "num_reals": len(real_set) if source else None,
                      "reals": source.about if source else None, **fakes.about}
            record |= _about_metric(metric, detector, known, fakes, real_set, some)
            if metric.uses == "maps":
                print(f"wrote {write_table(fakes.folder / metric.name, metric.pattern, record)}")
            record["floor"] = floors.get(metric.name)
        write_record(record, fakes.folder, start, minibatch, command)
    print(f"recorded in {fakes.folder}/metric-*.jsonl")


def evaluate_segmenter(source: ImageSource, measure: MapMeasure, folder: Path, *, command: str,
                       minibatch: int) -> None:
    """Compute miou with a segmenter's confusion measure, on the images and maps of `source`; print
    and record it as `evaluate` does."""
    start = time.monotonic()
    known = {"confusion": measure}
    images = FeatureSet(maps={"confusion": source_maps(source, "confusion", cache_dir(), warn,
                                                       known)})
    record = {"metric": "miou",
              "results": metric_base.parse_metric("miou").named(miou_values(images)),
              "num_reals": source.count, "reals": source.about, **measure.about,
              "classes": iou_table(source.classes, images)}
    print(f"wrote {write_table(folder / 'miou', 'miou', record)}")
    write_record(record, folder, start, minibatch, command)
    print(f"recorded in {folder}/metric-miou.jsonl")


def _about_metric(metric, detector, known, fakes, reals, some):
    """Return what a record says about the networks that a metric uses, and, for metrics of maps,
    the table of classes. reals, some: FeatureSets of the reals, and of the fakes it is computed on.
    """
    if metric.uses_detector:
        digest = detector.logits_digest if metric.uses == "logits" else detector.digest
        about = {"detector": detector.name, "resize": detector.resize_rule, "detector_hash": digest}
        if metric.view == "pair":
            about |= {"picture": "photo, to its right its map in the palette's colours",
                      "classes": list(fakes.classes)}
        return about
    about = {key: value for name in metric.measures for key, value in known[name].about.items()}
    if metric.uses == "originals":
        return {"num_reals": len(some), "reals": fakes.originals, **about}
    if metric.counts_areas:
        return about | {"min_area": reals.min_area,
                        "classes": class_table(fakes.classes, reals, some)}
    about["classes"] = iou_table(fakes.classes, reals, some)
    if metric.name == "miou":
        about["rare"] = rare_table(about["classes"], reals)
    return about


def write_table(path: Path | str, pattern: str, record: dict) -> str:
    """Write `path`.json, the record of a metric with its table as `classes`, and `path`.png, its
    chart; return both names.

    pattern: 'classesNk' shows proportions of instances, 'mapsNk' frequencies, 'labelsNk' and 'miou'
    the IoU of each label.
    """
    util.write_json(f"{path}.json", record)
    values, name, table = record["results"], record["metric"], record["classes"]
    if pattern == "classesNk":
        column = "proportion"
        title = f"Proportions of instances per class, total variation distance {values[name]:.3f}"
    elif pattern == "mapsNk":
        column = "frequency"
        title = ("Share of images that show a class (total variation distance "
                 f"{values[f'{name}_tv']:.3f}); {values[name]:.1%} of the generated regions are "
                 "specks")
    elif pattern == "miou":
        column, title = "iou", f"IoU of each label; mean {values[name]:.3f}"
        if "num_fakes" in record:
            title += f", of the reals {values['miou_real']:.3f}"
    else:
        column = "iou"
        title = (f"IoU of the maps and a segmenter's labels; mean {values[name]:.3f}, of the reals "
                 f"{values[f'{name}_real']:.3f}, ratio {values[f'{name}_ratio']:.3f}")
    # Draw bars for reals, and for fakes, which a segmenter's miou does not have.
    series = {f"{record[count]:,} {what}": [100 * (row[f"{side}_{column}"] or 0) for row in table]
              for side, what, count in (("real", "real", "num_reals"),
                                        ("fake", "generated", "num_fakes")) if count in record}
    chart = bar_chart([row["name"] for row in table], series, "{:.1f} %", title, kind="png")
    util.atomic_write(f"{path}.png", chart)
    return f"{path}.json, {path}.png"


def write_record(record: dict, folder: Path, start: float, minibatch: int, command: str) -> None:
    """Append a record to its file, with the entries that all records of a command share, and print
    it. start: time.monotonic() at the beginning of the evaluation."""
    record |= {"minibatch": minibatch, "time_sec": round(time.monotonic() - start, 1),
               "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
               "command": command}
    util.append_jsonl(folder / f"metric-{record['metric']}.jsonl", record)
    print(_summary(record))
    for line in rare_lines(record["rare"]) if record.get("rare") else ():
        print(line)


def warn_sizes(sizes: collections.Counter, reals: dict[str, ImageSource]) -> None:
    """Warn once for every source of reals whose most common image size differs from the fakes'."""
    for real in {real.name: real for real in reals.values()}.values():
        fake_size, real_size = (of.most_common(1)[0][0] for of in (sizes, real.sizes))
        if fake_size != real_size:
            advice = ("generate.py --keep-padding writes pairs of the reals' size"
                      if "resolution" in real.about and max(fake_size) == max(real_size)
                      else "--resolution takes reals of another size" if "resolution" in real.about
                      else "dataset_tool.py create_from_images makes a data set of one size")
            warn(f"warning: fakes are {most_common_sizes(sizes)}, the reals of {real.name} "
                 f"{most_common_sizes(real.sizes)}: that alone changes the metrics; {advice}")


def limit_all(metrics: list[Metric], limit: int | None) -> list[Metric]:
    """Return the metrics limited to the available fakes (None: unlimited), each once. Warn of names
    that change: with 1,200 fakes, fid50k becomes fid1200."""
    fitting = {}
    for metric in metrics:
        other = metric_base.limit_metric(metric, limit)
        if other != metric:
            warn(f"warning: {metric.name}: there are only {limit:,} fakes; computed and recorded "
                 f"as {other.name}")
        fitting[other.name] = other
    return list(fitting.values())


def check_classes(metrics: list[Metric], classes: tuple[str, ...],
                  reals: dict[str, ImageSource]) -> None:
    """Raise UserError if a metric needs maps and there are none, or fakes and reals have different
    classes; `classes` are those of the fakes."""
    for metric in (metric for metric in metrics if metric.needs_maps):
        real = reals[metric.reals]
        if not classes or not real.classes:
            lacking = f"the reals, {real.name}, have none" if classes else (
                "the generated images have none (a network of the class stage has them, and so has "
                "a folder that generate.py --num wrote)")
            raise UserError(f"{metric.name} needs label maps: {lacking}")
        if tuple(classes) != tuple(real.classes):
            raise UserError(f"{metric.name}: the fakes have the classes {', '.join(classes)};"
                            f" the reals, {real.name}, {', '.join(real.classes)}")


def measure_reals(metrics: list[Metric], reals: dict[str, ImageSource], detector: Any,
                  min_area: float, warn: Callable,
                  known: dict[str, MapMeasure] = MEASURES) -> dict[str, FeatureSet]:
    """Return {kind: FeatureSet} of the reals, with all that the metrics need, from the cache."""
    sets = {}
    for kind, source in reals.items():
        of_kind = [metric for metric in metrics if metric.reals == kind]
        features = {view: source_features(source, detector, cache_dir(), warn, view)
                    for view in metric_base.views_of(of_kind)}
        maps = {name: source_maps(source, name, cache_dir(), warn, known)
                for name in metric_base.measures_of(of_kind)}
        sets[kind] = feature_set(features, maps, min_area)
    return sets


def _summary(record):
    """Return one line with the values and what they were computed from."""
    if "num_pairs" in record:
        parts = [f"{record['num_pairs']:,} pairs", record["distance"]]
        parts += ["middle of faces"] if record["crop_face"] else []
    else:
        parts = [f"{record['num_fakes']:,} fakes"] if "num_fakes" in record else []
    if "photos" in record:
        parts.append(f"{record['num_A']:,} photos A, {record['num_B']:,} B")
    if record.get("reals"):
        name = record["reals"].get("name", record["reals"]["path"])
        parts.append(f"{record['num_reals']:,} reals of {name} {record['reals'].get('split', '')}")
    if record.get("min_area") is not None:
        parts.append(f"classes above {100 * record['min_area']:g} % of an image")
    if record.get("upscaled"):
        parts.append(f"fakes of {record['lod']['resolution']} upscaled to {record['resolution']}")
    if record.get("truncation"):
        parts.append(f"truncation {record['truncation']['psi']}")
    return f"{_format(record['results'])}  ({', '.join(part.strip() for part in parts)})"


def _format(values):
    """Return 'kid1k 0.01234  kid1k_std 0.0012'."""
    return "  ".join(f"{name} {value:.5g}" for name, value in values.items())
