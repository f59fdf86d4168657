"""Write a run's index.html: its state, grids, curves, classes and options, all in one file.

It is made from the files of the run directory (stats.jsonl, metric-*.jsonl, grids), so a resumed
run shows everything from its beginning.
"""

import functools
import json
import re
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.charts import Chart, bar_chart
from dnnlib.data import channels, pictures
from dnnlib.page import WIDTH, Encoded, Page
from training.method_config import as_text
from training.run.history import AUGMENTED, DIVERGED, FINAL, History, read_history
from training.variants import CONFIGS, DEFAULT_VARIANT

PAGE = "index.html"
MAX_GRIDS = 40  # grids of fakes; each copy takes at most a few hundred kB
MAX_CLASS_CHARTS = 6  # charts of classes that are not folded away
_GRID_NAME = re.compile(r"fakes(\d+(?:\.\d+)?)\.png")
_MAPPED_STAGES = {"classes", "labels", "photos"}  # whose grids show maps of all classes
_STAGES = {"rgb": "RGB", "binary": "binary map", "classes": "class maps"}
SIGNS_CHART = "mean sign of D's scores, and r_t"
_SCHEDULE_CHARTS = {
    "Timing/sec_per_kimg": "sec/kimg", "Progress/lrate": "learning rate",
    "Progress/minibatch": "minibatch", "Timing/maintenance_sec": "maintenance, seconds",
    "Resources/peak_mem_gb": "peak memory, GB",
    "Progress/skipped_updates": "skipped updates in a tick"}


def write_page(run_dir: Path, options: dict, is_running: bool = False) -> None:
    """Write a run directory's index.html atomically.

    Args:
        options: {name: value} of the training, as in training_options.json.
        is_running: whether a process is training in the directory.
    """
    history = read_history(run_dir)
    page = Page(run_dir.resolve().name)
    _add_state(page, run_dir, history, is_running)
    _add_summary(page, history, is_running)
    _add_grids(page, run_dir, history, CONFIGS[options.get("variant", DEFAULT_VARIANT)].cells)
    _add_charts(page, "Metrics", metric_charts(history, run_dir))
    _add_classes(page, history)
    _add_charts(page, "Losses and scores", loss_charts(history))
    _add_charts(page, "Speed and schedule", schedule_charts(history))
    _add_growths(page, history)
    _add_options(page, options)
    page.text(f"Written {_now()}; {page.size() / 1e6:.1f} MB.")
    util.atomic_write(run_dir / PAGE, page.render())


def _add_state(page, run_dir, history, is_running):
    """Add whether the training is running, stopped, given up or finished, as far as is known.

    A killed training can write no page; so while running, the page says when it was written.
    """
    if (run_dir / FINAL).is_file():
        page.state("finished", f"The networks are in {FINAL}.")
    elif (run_dir / DIVERGED).is_file():
        page.state("given up", "Losses or gradients were not finite. The same command prints "
                   "what to try.")
    elif is_running:
        tick = history.ticks[-1] if history.ticks else {}
        sec = tick.get("Timing/sec_per_tick", 0) + tick.get("Timing/maintenance_sec", 0)
        after = f" (the latest took {util.format_time(sec)})" if tick else ""
        page.running(f"when this page was written, {_now()}", "It is rewritten at the end of a "
                     f"tick{after}, at most once a minute, and when the training stops: if it is "
                     "much older, the training was killed or hangs.", time.time(),
                     max(5 * sec, 600) if tick else 0)
    else:
        page.state("stopped", "The same command continues it.")


def _now():
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _add_summary(page, history, is_running):
    """Add how far the training has come."""
    if not history.ticks:
        page.text("No tick has finished yet.")
        return
    s = history.ticks[-1]
    end = f" of {s['Progress/end_kimg']:g}" if "Progress/end_kimg" in s else ""
    rows = [("kimg", f"{s['Progress/kimg']:.1f}{end}"),
            ("stage", f"{s['stage']}{_size_of(s)}"),
            ("speed", f"{s['Timing/sec_per_kimg']:.4g} sec/kimg, "
                      f"{1000 / s['Timing/sec_per_kimg']:.4g} images/s"),
            ("time so far", util.format_time(s["Timing/total_sec"]))]
    if "Timing/eta_sec" in s and is_running:
        rows.append(("time left", f"stage {util.format_time(s['Timing/eta_stage_sec'])}, run "
                                    f"{util.format_time(s['Timing/eta_sec'])} (estimate)"))
    rows.append(("skipped updates", f"{s.get('Progress/skipped_total', 0)}"))
    if history.unreadable:
        rows.append(("stats.jsonl", f"{history.unreadable} lines could not be read"))
    page.table(["", ""], rows)


def _size_of(tick):
    """Return ', 64x64, 16 channels, lod 0.50' of a tick; '' if its method does not grow."""
    if "Progress/resolution" not in tick:
        return ""
    return (", {0}x{0}, {1} channels, lod {2:.2f}".format(
        tick["Progress/resolution"], tick["Progress/channels"], tick["Progress/lod"]))


# Charts

def _add_charts(page, title, charts):
    """Add a section of charts; constant curves are folded away as numbers."""
    flat, moving = ([chart for chart in charts if chart.is_flat() is kind]
                    for kind in (True, False))
    if charts:
        page.heading(title)
        _draw(page, moving)
    if flat:
        with page.folded(f"constant: {', '.join(chart.title for chart in flat)}"):
            page.table(["curve", "value"], [[name, values[-1]] for chart in flat
                                            for name, (_, values) in chart.series.items()])


def _draw(page, charts):
    """Add charts side by side."""
    if charts:
        page.charts([(chart.title, chart.legend(), chart.svg()) for chart in charts])


def _charts(groups, history):
    """Return {title: {name: (x, y)}} as charts over the whole run.

    Growths in channels and resolution, and resumes, are marked. A stage begins exactly at its mark,
    a new resolution somewhere in the tick after its mark.
    """
    marks = [(growth["kimg"], growth["stage"], "growth") for growth in history.growths]
    marks += [(resume["kimg"], "resumed", "resume") for resume in history.resumes]
    for before, tick in zip(history.ticks, history.ticks[1:]):
        size = tick.get("Progress/resolution")
        if size != before.get("Progress/resolution"):
            marks.append((before["Progress/kimg"], f"{size}", "mark"))
    marks.sort(key=lambda mark: mark[0])
    end = max((tick["Progress/kimg"] for tick in history.ticks), default=0.0)
    return [Chart(title, "kimg", curves, marks, end) for title, curves in groups.items()]


def series(history: History, prefix: str) -> dict[str, tuple[list, list]]:
    """Return {name without the prefix: (kimg [n], values [n])} for the ticks' scalars."""
    found = {}
    for tick in history.ticks:
        for name, value in tick.items():
            if name.startswith(prefix):
                x, y = found.setdefault(name[len(prefix):], ([], []))
                x.append(tick["Progress/kimg"])
                y.append(value)
    return found


def metric_charts(history: History, run_dir: Path) -> list[Chart]:
    """Return a chart for every metric, including results of run_metrics.py."""
    groups = {name: {name: curve} for name, curve in series(history, "Metrics/").items()}
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for name, curves in _measured(path).items():
            groups.setdefault(name, {}).update(curves)
    return _charts(groups, history)


def _measured(path):
    """Return {metric: {legend: (kimg, values)}} of a metric-<name>.jsonl, the last result of each
    kimg."""
    found = {}
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            kimg, reals = record["kimg"], record["reals"]["split"]
            results = record["results"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # cut off, or from a protocol without a snapshot or reals
        for name, value in results:
            if isinstance(kimg, int | float) and isinstance(value, int | float):
                found.setdefault(name, {}).setdefault(f"{name}, run_metrics.py, {reals}", {})[
                    kimg] = value
    return {name: {legend: tuple(zip(*sorted(points.items()))) for legend, points in curves.items()}
            for name, curves in found.items()}


def loss_charts(history: History) -> list[Chart]:
    """Return charts of scores, their signs, each penalty, other losses and the augmentation's
    strength, with one curve per critic."""
    groups = {}
    for name, curve in series(history, "Loss/").items():
        kind, _, rest = name.partition("/")
        title = {"scores": "scores of D", "signs": SIGNS_CHART}.get(
            kind, kind if "penalty" in kind else "losses")
        groups.setdefault(title, {})[rest if title != "losses" and rest else name] = curve
    for name, curve in series(history, "Augment/").items():
        kind, _, critic = name.partition("/")
        if kind == "p":
            groups.setdefault("probability p of each augmentation", {})[critic] = curve
        else:
            groups.setdefault(SIGNS_CHART, {})[name] = curve
    return _charts(groups, history)


def schedule_charts(history: History) -> list[Chart]:
    """Return charts of speed, rates and resources, with one curve each."""
    curves = {title: series(history, name).get("") for name, title in _SCHEDULE_CHARTS.items()}
    return _charts({title: {title: curve} for title, curve in curves.items() if curve}, history)


# Grids

def _add_grids(page, run_dir, history, cells):
    """Add a slider with the grids of fakes, which show `cells`, set to the latest; then the latest
    grid of reals, and reals as D sees them."""
    grids = sorted((float(match[1]), path) for path in run_dir.iterdir()
                   if (match := _GRID_NAME.fullmatch(path.name)))
    reals = max(run_dir.glob("reals*.png"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if grids or reals:
        page.heading("Grids")
        # The legend of the classes' colours, once there are class maps.
        colours = {}
        if _MAPPED_STAGES & history.stages:
            names = history.classes
            colours = dict(zip(["background", *names], channels.palette(len(names)).tolist()))
        if "binary" in history.stages:
            colours["any class, in the binary map"] = (255, 255, 255)
        if colours:
            page.legend({name: "rgb({}, {}, {})".format(*rgb) for name, rgb in colours.items()})
    if grids:
        shown = evenly(grids, MAX_GRIDS)
        page.slider("time", [(_thumbnail(path), _grid_caption(path, kimg, history))
                             for kimg, path in shown])
        page.text(f"{len(shown)} of {len(grids)} grids, {cells}; full size in the files named "
                  "below each.")
    if reals:
        page.picture(_thumbnail(reals), f"real images, {reals.name}")
    if (augmented := run_dir / AUGMENTED).is_file():
        page.picture(_thumbnail(augmented), "real images as the discriminator with most channels "
                     f"sees them, {augmented.name}")


def evenly(items: list, limit: int) -> list:
    """Return at most `limit` items, evenly spaced, including the first and the last.

    If the list grows by one item, at most that item is new in the result.
    """
    step = 1
    while len(items[:-1:step]) >= limit:
        step *= 2
    return [*items[:-1:step], items[-1]]


def _grid_caption(path, kimg, history):
    """Return the grid's tick and file name; file names have whole kimg, rounded down."""
    tick = next((t for t in history.ticks if t["Progress/kimg"] >= kimg), None)
    if kimg == 0 or tick is None:
        return f"kimg {kimg:g}, {path.name}"
    return f"kimg {tick['Progress/kimg']:g}, stage {tick['stage']}{_size_of(tick)}, {path.name}"


@functools.lru_cache(2 * MAX_GRIDS)
def _encoded(path, mtime_ns):
    """Return a grid as the page shows it; each version of a file is encoded once per process."""
    with Image.open(path) as picture:
        return Encoded.of(pictures.shrink_to_width(np.asarray(picture.convert("RGB")), WIDTH))


def _thumbnail(path):
    return _encoded(path, path.stat().st_mtime_ns)


# Classes, growths, options

def _add_classes(page, history):
    """Add how often each class occurs in real and in generated maps."""
    real = series(history, "Classes/real/")
    if not real:
        return
    fake = series(history, "Classes/fake/")
    latest = {name: values[-1] for name, (_, values) in real.items()}
    names = sorted(latest, key=latest.get, reverse=True)
    kimg = next(iter(real.values()))[0][-1]
    page.heading("Class frequencies")
    page.text(f"Per cent of images that show each class: at kimg {kimg:g}, and below over the "
              "whole run.")
    page.chart(bar_chart(names, {
        "real": [100 * latest[name] for name in names],
        "generated": [100 * fake[name][1][-1] if name in fake else 0 for name in names]}, "{:.1f}"))
    charts = class_charts(history, names)
    _draw(page, charts[:MAX_CLASS_CHARTS])
    if rarer := charts[MAX_CLASS_CHARTS:]:
        with page.folded(f"rarer ones: {', '.join(chart.title for chart in rarer)}"):
            _draw(page, rarer)


def class_charts(history: History, names: list[str]) -> list[Chart]:
    """Return a chart of the distance between real and generated proportions, then one of each
    class's frequencies."""
    groups = {"total variation distance of the proportions": {
        "distance": series(history, "Classes/total_variation").get("", ([], []))}}
    shares = {legend: series(history, f"Classes/{kind}/")
              for kind, legend in (("real", "real"), ("fake", "generated"))}
    for name in names:
        groups[name] = {
            legend: (curves[name][0], [100 * share for share in curves[name][1]])
            for legend, curves in shares.items() if name in curves}
    return _charts(groups, history)


def _add_growths(page, history):
    """Add scores and metrics before and after each growth in channels."""
    if history.growths:
        page.heading("Growths in channels")
    for growth in history.growths:
        before, after = growth["before"], growth["after"]
        page.text(f"to {_STAGES.get(growth['stage'], growth['stage'])} at kimg {growth['kimg']:g}")
        page.table(["", "before", "after"], [[name, before.get(name, ""), after.get(name, "")]
                                             for name in before | after])


def _add_options(page, options):
    """Add the configuration, beginning with what differs from the nearest preset."""
    options = {name: as_text(value) for name, value in options.items()}
    config_class = CONFIGS[options.get("variant", DEFAULT_VARIANT)]
    presets = {name: {key: as_text(value) for key, value in
                      config_class.preset(name, {}).to_json().items()}
               for name in config_class.presets}
    changed = {name: [key for key in preset if options.get(key) != preset[key]]
               for name, preset in presets.items()}
    nearest = min(changed, key=lambda name: len(changed[name]))
    page.heading("Configuration")
    page.text(f"What differs from the preset {nearest}, the nearest one:")
    page.table(["option", "value", nearest],
               [[key, options.get(key, ""), presets[nearest][key]] for key in changed[nearest]])
    with page.folded("Everything else"):
        page.table(["option", "value"], [[key, value] for key, value in options.items()
                                         if key not in changed[nearest]])
