"""index.html of a run: its state, grids, curves, classes and options, all in one file.

Made from what lies in the run directory (stats.jsonl, metric-*.jsonl, grids), so that a resumed run
shows everything from its beginning. `python -m training.run.run_page RUN` writes it anew.
"""

import json
import re
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib import util
from dnnlib.curves import Chart, Mark
from dnnlib.data import channels, pictures
from dnnlib.page import WIDTH, Encoded, Page
from dnnlib.util import UserError
from training.config import PRESETS, preset_config
from training.run.history import FINAL, GIVEN_UP, OPTIONS, History, read_history

PAGE = "index.html"
MAX_GRIDS, MAX_GRID_BYTES = 40, 6_000_000  # of all grids of fakes; a third more as text
MIN_GRID_HEIGHT = 4 * pictures.SMALLEST  # of older grids, four samples high and as small as these
MAX_CLASS_CHARTS = 6  # that are not folded away
THUMBNAILS = "thumbnails"  # the page's copies of the grids, so that none is made twice
_GRID_NAME = re.compile(r"fakes(\d+(?:\.\d+)?)\.png")
_STAGES = {"rgb": "RGB", "binary": "binary map", "classes": "class maps"}


def write_page(run_dir: Path, options: dict, is_running: bool = False):
    """Write index.html of a run directory, whole or not at all.

    Args:
        options: {name: value} of the training, as in training_options.json.
        is_running: whether a process trains in the directory.
    """
    history = read_history(run_dir)
    page = Page(run_dir.resolve().name)
    _add_state(page, run_dir, history, is_running)
    _add_summary(page, history, is_running)
    _add_grids(page, run_dir, history)
    _add_charts(page, "Metrics", _metric_charts(history, run_dir))
    _add_classes(page, history)
    for title, charts in (("Losses and scores", _loss_charts(history)),
                          ("Speed and schedule", _schedule_charts(history))):
        _add_charts(page, title, [chart for chart in charts if not chart.is_flat()])
        _add_folded_charts(page, "without a change", [c for c in charts if c.is_flat()])
    _add_growths(page, history)
    _add_options(page, options)
    page.text(f"Written {_now()}; {page.size() / 1e6:.1f} MB.")
    util.atomic_write(run_dir / PAGE, page.render())


def _add_state(page, run_dir, history, is_running):
    """Whether the training runs, was stopped or is finished, as far as a page can know.

    Who is killed writes no page: so the page of a running training says when it was written.
    """
    if (run_dir / FINAL).is_file():
        page.state("finished", f"The networks are in {FINAL}.")
    elif (run_dir / GIVEN_UP).is_file():
        page.state("given up", "Losses or gradients were not finite. The same command says what "
                   "to try.")
    elif is_running:
        tick = history.ticks[-1] if history.ticks else {}
        sec = tick.get("Timing/sec_per_tick", 0) + tick.get("Timing/maintenance_sec", 0)
        after = f", the latest in {util.format_time(sec)}" if tick else ""
        page.running(f"when this page was written, {_now()}", "It is written anew at the end of "
                     f"every tick{after}, and when the training stops: if it is much older, the "
                     "training was killed or hangs.", time.time(),
                     max(5 * sec, 600) if tick else 0)
    else:
        page.state("stopped", "The same command continues it.")


def _now():
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _add_summary(page, history, is_running):
    """How far the training is."""
    if not history.ticks:
        page.text("No tick is over yet.")
        return
    s = history.ticks[-1]
    end = f" of {s['Progress/end_kimg']:g}" if "Progress/end_kimg" in s else ""
    rows = [("kimg", f"{s['Progress/kimg']:.1f}{end}"),
            ("stage", f"{s['stage']}, {s['Progress/resolution']}x{s['Progress/resolution']}, "
                      f"{s['Progress/channels']} channels, lod {s['Progress/lod']:.2f}"),
            ("speed", f"{s['Timing/sec_per_kimg']:.4g} sec/kimg, "
                      f"{1000 / s['Timing/sec_per_kimg']:.4g} images/s"),
            ("time so far", util.format_time(s["Timing/total_sec"]))]
    if "Timing/eta_sec" in s and is_running:
        rows.append(("still to go", f"stage {util.format_time(s['Timing/eta_stage_sec'])}, run "
                                    f"{util.format_time(s['Timing/eta_sec'])} (estimate)"))
    rows.append(("skipped updates", f"{s.get('Progress/skipped_total', 0)}"))
    if history.unreadable:
        rows.append(("stats.jsonl", f"{history.unreadable} lines could not be read"))
    page.table(["", ""], rows)


def _marks(history):
    """Where the resolution and the channels grow, and where the run was taken up again.

    A new resolution begins within the tick after its mark, a stage exactly at it.
    """
    marks = [Mark(growth["kimg"], growth["stage"], "growth") for growth in history.growths]
    marks += [Mark(resume["kimg"], "resumed", "resume") for resume in history.resumes]
    for before, tick in zip(history.ticks, history.ticks[1:]):
        size = tick["Progress/resolution"]
        if size != before["Progress/resolution"]:
            marks.append(Mark(before["Progress/kimg"], f"{size}"))
    return sorted(marks, key=lambda mark: mark.x)


def series(history, prefix):
    """{name without the prefix: (kimg [n], values [n])} of the ticks' scalars."""
    found = {}
    for tick in history.ticks:
        for name, value in tick.items():
            if name.startswith(prefix):
                x, y = found.setdefault(name[len(prefix):], ([], []))
                x.append(tick["Progress/kimg"])
                y.append(value)
    return found


def _add_charts(page, title, charts):
    if charts:
        page.heading(title)
        page.charts(charts)


def _add_folded_charts(page, kind, charts):
    """Charts that are seen when one asks for them."""
    if charts:
        with page.folded(f"{kind}: {', '.join(chart.title for chart in charts)}"):
            page.charts(charts)


def _charts(groups, history):
    """{title: {name: (x, y)}} as charts over the whole run."""
    marks, end = _marks(history), max((t["Progress/kimg"] for t in history.ticks), default=0.0)
    return [Chart(title, "kimg", curves, marks, end) for title, curves in groups.items()]


def _metric_charts(history, run_dir):
    """A chart for every metric, with what run_metrics.py found."""
    groups = {name: {name: curve} for name, curve in series(history, "Metrics/").items()}
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for name, curves in _measured(path).items():
            groups.setdefault(name, {}).update(curves)
    return _charts(groups, history)


def _measured(path):
    """{metric: {legend: (kimg, values)}} of one metric-<name>.jsonl, the last of each kimg."""
    found = {}
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            kimg, reals = record["kimg"], record["reals"]["split"]
            results = record["results"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # cut off, or of a protocol without snapshot or reals
        for name, value in results:
            if isinstance(kimg, int | float) and isinstance(value, int | float):
                found.setdefault(name, {}).setdefault(f"{name}, run_metrics.py, {reals}", {})[
                    kimg] = value
    return {name: {legend: tuple(zip(*sorted(points.items()))) for legend, points in curves.items()}
            for name, curves in found.items()}


def _loss_charts(history):
    """Scores together, penalties each, the other losses together; one curve a critic."""
    groups = {}
    for name, curve in series(history, "Loss/").items():
        kind, _, rest = name.partition("/")
        title = {"scores": "scores of D"}.get(kind, kind if "penalty" in kind else "losses")
        groups.setdefault(title, {})[rest if title != "losses" and rest else name] = curve
    return _charts(groups, history)


def _schedule_charts(history):
    """Speed, rates and resources, each by itself."""
    titles = {"Timing/sec_per_kimg": "sec/kimg", "Progress/lrate": "learning rate",
              "Progress/minibatch": "minibatch", "Timing/maintenance_sec": "maintenance, seconds",
              "Resources/peak_mem_gb": "peak memory, GB",
              "Progress/skipped_updates": "skipped updates in a tick"}
    curves = {name: series(history, name).get("") for name in titles}
    return _charts({titles[name]: {titles[name]: curve} for name, curve in curves.items() if curve},
                   history)


def _add_grids(page, run_dir, history):
    """The grids of fakes behind a slider, the latest in view; then the latest of reals."""
    grids = list_grids(run_dir)
    reals = max(run_dir.glob("reals*.png"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if grids or reals:
        page.heading("Grids")
        _add_legend(page, history)
    if grids:
        shown = _shown_grids(grids)
        page.slider("time", [(encoded, _grid_caption(path, kimg, history))
                             for encoded, kimg, path in shown])
        page.text(f"{len(shown)} of {len(grids)} grids, photo beside map where there are maps, of "
                  "Gs without truncation; full size in the files named below each.")
    if reals:
        page.picture(thumbnail(reals), f"real images, {reals.name}")


def _add_legend(page, history: History):
    """Which colour of the maps is which class, once there are such maps."""
    colours = {}
    if "classes" in history.stages:
        names = history.classes
        colours = dict(zip(["background", *names], channels.palette(len(names)).tolist()))
    if "binary" in history.stages:
        colours["any class, in the binary map"] = (255, 255, 255)
    if colours:
        page.legend(colours)


def list_grids(run_dir):
    """[(kimg, path)] of the grids of fakes, in the order of time."""
    found = [(match, path) for path in run_dir.iterdir()
             if (match := _GRID_NAME.fullmatch(path.name))]
    return sorted((float(match[1]), path) for match, path in found)


def _shown_grids(grids):
    """[(Encoded, kimg, path)] of as many grids, evenly spaced, as the page has room for."""
    shown = [(thumbnail(path), kimg, path) for kimg, path in evenly(grids, MAX_GRIDS)]
    size = sum(len(encoded.content) for encoded, _, _ in shown)
    if size <= MAX_GRID_BYTES:
        return shown
    return evenly(shown, max(int(len(shown) * MAX_GRID_BYTES / size), 2))


def evenly(items, limit):
    """At most `limit` of a list, evenly spaced, with the first and the last."""
    if len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def _grid_caption(path, kimg, history):
    """The file's name and the tick it was drawn in; names hold whole kimg, rounded down."""
    tick = next((t for t in history.ticks if t["Progress/kimg"] >= kimg), None)
    if kimg == 0 or tick is None:
        return f"kimg {kimg:g}, {path.name}"
    size = tick["Progress/resolution"]
    return f"kimg {tick['Progress/kimg']:g}, stage {tick['stage']}, {size}x{size}, {path.name}"


def thumbnail(path):
    """A grid's copy for the page as html.Encoded; made where there is none, or an older one."""
    for kind in ("WEBP", "JPEG"):
        copy = path.parent / THUMBNAILS / f"{path.stem}.{kind.lower()}"
        if copy.is_file() and copy.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            with Image.open(copy) as picture:
                return Encoded(copy.read_bytes(), kind, *picture.size)
    with Image.open(path) as picture:
        encoded = Encoded.of(_fitted(np.asarray(picture.convert("RGB"))))
    util.atomic_write(path.parent / THUMBNAILS / f"{path.stem}.{encoded.kind.lower()}",
                      encoded.content)
    return encoded


def _fitted(grid):
    """A grid uint8 [H, W, 3] about as wide as the page, but no sample below SMALLEST pixels."""
    height, width = grid.shape[:2]
    if height < MIN_GRID_HEIGHT:
        return pictures.enlarge(grid, -(-MIN_GRID_HEIGHT // height))
    return pictures.reduced(grid, max(WIDTH, -(-width // (height // MIN_GRID_HEIGHT))))


def _add_classes(page, history):
    """How often each class is seen in real and in generated maps, in the latest count."""
    counted = [tick for tick in history.ticks
               if any(name.startswith("Classes/real/") for name in tick)]
    if not counted:
        return
    real = {name.removeprefix("Classes/real/"): value for name, value in counted[-1].items()
            if name.startswith("Classes/real/")}
    names = sorted(real, key=real.get, reverse=True)
    fake = [counted[-1].get(f"Classes/fake/{name}", 0) for name in names]
    page.heading("Class frequencies")
    page.text("Per cent of the images that show each class, at kimg "
              f"{counted[-1]['Progress/kimg']:g}, and below through the run.")
    page.bars(names, {"real": [100 * real[name] for name in names],
                      "generated": [100 * share for share in fake]}, "{:.1f}")
    charts = _class_charts(history, names)
    page.charts(charts[:MAX_CLASS_CHARTS])
    _add_folded_charts(page, "rarer ones", charts[MAX_CLASS_CHARTS:])


def _class_charts(history, names):
    """The distance of the proportions, then for each class its frequencies through the run."""
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
    """Scores and metrics before and after each growth in channels."""
    if history.growths:
        page.heading("Growths in channels")
    for growth in history.growths:
        names = list(growth["before"] | growth["after"])
        page.text(f"to {_STAGES.get(growth['stage'], growth['stage'])} at kimg {growth['kimg']:g}")
        page.table(["", "before", "after"],
                   [[name, growth["before"].get(name, ""), growth["after"].get(name, "")]
                    for name in names])


def _add_options(page, options):
    """The configuration; first what differs from the preset that differs least."""
    options = _shown(options)
    presets = {name: _shown(preset_config(name, {}).to_json()) for name in PRESETS}
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


def _shown(options):
    """Options as the command line has them: tables as 8:128,32:64."""
    return {name: ",".join(f"{key}:{part}" for key, part in value.items())
            if isinstance(value, dict) else str(value) for name, value in options.items()}


def main(argv):
    """Write the page of a run directory anew."""
    parser = util.argument_parser(
        __doc__, "  python -m training.run.run_page results/00000-rgb-modanet\n")
    parser.add_argument("run", help="run directory")
    run_dir = Path(parser.parse_args(argv).run)
    write_page(run_dir, util.read_json(run_dir / OPTIONS), is_trained_in(run_dir))
    print(run_dir / PAGE)
    return 0


def is_trained_in(run_dir: Path) -> bool:
    """Whether a training holds a run directory."""
    try:
        with util.only_process(run_dir, "training in it"):
            return False
    except UserError:
        return True


if __name__ == "__main__":
    util.run_main(main)
