"""Compute metrics of what is judged, say the numbers and write all that defines them."""

import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from dnnlib import util
from dnnlib.download import cache_dir
from dnnlib.util import UserError
from metrics.class_proportions import class_table, write_table
from metrics.features import MIN_AREA, FeatureSet, source_areas, source_features
from metrics.metric_base import (
    check_counts,
    compute,
    compute_paths,
    floor,
    measure_fakes,
    parse_metric,
    uses_detector,
    with_count,
)


@dataclass(frozen=True)
class Fakes:
    """What is judged.

    Attributes:
        generate: function (count) -> iterator over (rgb uint8 [n, H, W, 3], label maps uint8
            [n, H, W] or None).
        limit: how many images there are; None: endless.
        about: what a result says of them.
        folder: where results are written.
        classes: names of the labels 1..C; () without label maps.
        paths: function (space, sampling, num_samples) -> mean path length, where it was asked for.
        about_paths: what a result of paths says besides.
    """

    generate: object
    limit: int | None
    about: dict
    folder: Path
    classes: tuple = ()
    paths: object = None
    about_paths: dict | None = None


@dataclass(frozen=True)
class Protocol:
    """What defines numbers besides names, fakes and reals. `command`: how they were made."""

    command: str
    minibatch: int
    min_area: float = MIN_AREA
    floor: bool = False


def judge(names, fakes, reals, detector, protocol):
    """Compute `names`, print every value, append every record to metric-<name>.jsonl.

    reals: {SPLIT or FULL: ImageSource} with all that the metrics compare with; detector: None where
    none needs it. Raises UserError where a metric of maps lacks them, or images are too few.
    """
    start = time.monotonic()
    check_classes(names, fakes, reals)
    check_counts(names, fakes.limit, {kind: source.count for kind, source in reals.items()})
    names = names_of_counts(names, fakes.limit)
    real_sets = measure_reals(names, reals, detector, protocol.min_area)
    floors = floor_values(names, real_sets, detector) if protocol.floor else {}
    fake_set = measure_fakes(names, fakes.generate, detector, fakes.limit, len(fakes.classes),
                             protocol.min_area)
    for name in names:
        if parse_metric(name)[0].uses == "paths":
            record = path_record(name, fakes)
        else:
            record = image_record(name, fakes, fake_set, reals, real_sets, detector, protocol)
            record["floor"] = floors.get(name)
        record |= {"minibatch": protocol.minibatch, "time_sec": round(time.monotonic() - start, 1),
                   "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                   "command": protocol.command}
        util.append_jsonl(fakes.folder / f"metric-{name}.jsonl", record)
        print(describe(record))
    print(f"recorded in {fakes.folder}/metric-*.jsonl")


def names_of_counts(names, limit):
    """The metrics' names by the images that there are: of 1,200 fakes fid50k is fid1200.

    limit: how many fakes there are; None: endless. Warns of names that change.
    """
    fitting = {name: with_count(name, limit) if limit and limit < parse_metric(name)[1] else name
               for name in names}
    for name, other in fitting.items():
        if name != other:
            warn(f"warning: {name}: there are only {limit:,} fakes; computed and recorded as "
                 f"{other}")
    return list(dict.fromkeys(fitting.values()))


def path_record(name, fakes):
    """A metric of paths: its values and what defines them."""
    return {"metric": name, "results": compute_paths(name, fakes.paths),
            "num_pairs": parse_metric(name)[1], **fakes.about, **fakes.about_paths}


def image_record(name, fakes, fake_set, reals, real_sets, detector, protocol):
    """A metric of images: its values and what defines them; writes the table of a metric of maps.

    fake_set: FeatureSet of which the first count are taken; real_sets: {kind: FeatureSet}.
    """
    function, count = parse_metric(name)
    used, real_set = fake_set[:count], real_sets.get(function.reals)
    record = {"metric": name, "results": compute(name, used, real_set, detector, warn),
              "num_fakes": len(used), "num_reals": len(real_set) if real_set else None,
              "reals": reals[function.reals].about if real_set else None, **fakes.about}
    if function.uses == "maps":
        record["min_area"] = protocol.min_area
        table = class_table(fakes.classes, real_set, used)
        print(f"wrote {write_table(fakes.folder / name, table, record)}")
    else:
        digest = detector.logits_digest if function.uses == "logits" else detector.digest
        record |= {"detector": detector.name, "resize": detector.resize_rule,
                   "detector_hash": digest}
    return record


def check_classes(names, fakes, reals):
    """Raise UserError where a metric of maps has none to count, or two kinds of them."""
    for name in names:
        function, _ = parse_metric(name)
        if function.uses != "maps":
            continue
        real = reals[function.reals]
        if not fakes.classes:
            raise UserError(f"{name} counts classes in label maps: what is judged has none (a "
                            "network of the class stage has, and a folder that generate.py --num "
                            "wrote)")
        if not real.classes:
            raise UserError(f"{name} counts classes in label maps: the reals, {real.name}, have "
                            "none")
        if tuple(fakes.classes) != tuple(real.classes):
            raise UserError(f"{name}: the fakes have the classes {', '.join(fakes.classes)}; the "
                            f"reals, {real.name}, {', '.join(real.classes)}")


def measure_reals(names, reals, detector, min_area):
    """{kind: FeatureSet} of {kind: ImageSource}: what the metrics need of each, from the cache."""
    sets = {}
    for kind, source in reals.items():
        of_kind = [name for name in names if parse_metric(name)[0].reals == kind]
        features = areas = None
        if any(uses_detector(name) for name in of_kind):
            features = source_features(source, detector, cache_dir(), warn)
        if any(parse_metric(name)[0].uses == "maps" for name in of_kind):
            areas = source_areas(source, cache_dir(), warn)
        sets[kind] = FeatureSet(features, areas, min_area)
    return sets


def floor_values(names, real_sets, detector):
    """{name: {values, count of either half}} of the metrics that compare with reals; printed."""
    floors = {}
    for name in names:
        kind = parse_metric(name)[0].reals
        if kind is not None:
            values, half = floor(name, real_sets[kind], detector, warn)
            floors[name] = {"results": values, "num_each": half}
            print(f"floor {format_values(values)}  (two halves of the reals, {half:,} each)")
    return floors


def describe(record):
    """One line: values and what they were computed from."""
    if "num_pairs" in record:
        parts = [f"{record['num_pairs']:,} pairs", record["distance"]]
        parts += ["middle of faces"] if record["crop_face"] else []
    else:
        parts = [f"{record['num_fakes']:,} fakes"]
    if record.get("reals"):
        name = record["reals"].get("name", record["reals"]["path"])
        parts.append(f"{record['num_reals']:,} reals of {name} {record['reals'].get('split', '')}")
    if record.get("min_area") is not None:
        parts.append(f"classes above {100 * record['min_area']:g} % of an image")
    if record.get("upscaled"):
        parts.append(f"fakes of {record['lod']['resolution']} upscaled to {record['resolution']}")
    if record.get("truncation"):
        parts.append(f"truncation {record['truncation']['psi']}")
    return f"{format_values(record['results'])}  ({', '.join(p.strip() for p in parts)})"


def format_values(values):
    """'kid1k 0.01234  kid1k_std 0.0012'."""
    return "  ".join(f"{name} {value:.5g}" for name, value in values.items())


def warn(line):
    """A warning, apart from the results."""
    print(line, file=sys.stderr)
