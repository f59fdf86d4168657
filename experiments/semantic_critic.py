"""Does a critic that knows the classes draw small ones better? Photos from maps, trained four ways.

    patch-l1            pix2pix: the critic scores patches, the loss compares pixels
    semantic-semantic   a map of logits for every class, all of the same weight, and a segmentation
                        network's maps compared instead of pixels ("Next steps for image synthesis
                        using semantic segmentation", 2020)
    capacity-semantic   as many maps without weights: is it the semantics, or only more maps?
    semantic-l1         pixels compared: which of the two changes matters?

Each question has its own comparison: semantic-semantic against patch-l1, capacity-semantic and
semantic-l1.

On Facades at 64x64 and 128x128 and on Clothing Co-Parsing at 64x64, with the same number of steps
in every row, and two seeds. The last networks are measured, on maps that they have not seen (the
test split; for Facades the validation split): mIoU between the maps and a segmentation network's
labels of the photos, over all classes and over the five with the fewest pixels, beside that of the
real photos, the ceiling; FID and KID, beside those between two halves of the real photos; LPIPS.

    python dataset_tool.py create_from_pairs --source=facades --classes=facades \\
        --resolution=128 --out=datasets/facades
    python -m experiments.semantic_critic --out=results/semantic_critic \\
        --segmenter=facades-64:results/1,ccp-64:results/2,facades-128:results/3 \\
        --judge=facades-64:results/4,ccp-64:results/5,facades-128:results/6

--segmenter names the network with which the rows of `semantic` compare maps, --judge the one that
measures all rows. They must differ, because a network gives too good a score to those that were
trained with it. Another --architecture of --variant=segmenter makes them more independent than
another --seed.

Preset `night` (the default) is planned for at most six hours on two CPU cores with AVX2, the most
valuable answers first: 2,000 steps of four photos per row, each with 0.25 s of processor time at
64x64 and 0.75 s at 128x128, plus a segmentation network in half of the rows, and evaluations: four
and a half to five and a half hours. Expected: semantic-semantic above patch-l1 in the mIoU of the
rarest classes, with no larger FID. semantic_critic.md, .json and, for each data set, a chart and a
sheet of photos grow with every row; the same command continues.
"""

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib import cli
from dnnlib.data import channels, pictures
from dnnlib.data.dataset import DatasetInfo, open_dataset
from dnnlib.data.labelled import IMAGES, SplitPictures
from dnnlib.util import UserError
from experiments.command import Preset, Study, plan_of
from experiments.study import Trial, script
from experiments.tables import (
    SPREAD,
    Measure,
    Table,
    class_columns,
    differences,
    reference_cells,
    results_table,
    summarize,
    table_to_json,
    training_time,
    write_bars,
)
from metrics.label_agreement import NUM_RARE

SCENES = {"facades-64": ("facades", 64), "ccp-64": ("ccp", 64), "facades-128": ("facades", 128)}
DATASETS = tuple(dict.fromkeys(name for name, _ in SCENES.values()))
METHODS = {f"{critic}-{reconstruction}": dict(critic=critic, reconstruction=reconstruction)
           for critic, reconstruction in (("patch", "l1"), ("semantic", "semantic"),
                                          ("capacity", "semantic"), ("semantic", "l1"))}
# The rows that others are compared with, and which ones; None for all.
COMPARED = {"patch-l1": None, "capacity-semantic": ("semantic-semantic",),
            "semantic-l1": ("semantic-semantic",)}
PHOTOS = "photos"  # in a run directory: its photos from the maps that are measured
SHOWN = 8  # maps in a sheet
ROWS = tuple(f"{scene}-{method}" for scene in SCENES for method in METHODS)
EXAMPLES = """\
  python -m experiments.semantic_critic --segmenter=facades-64:3,ccp-64:4 --judge=facades-64:5,\
ccp-64:6 --rows=facades-64-patch-l1,facades-64-semantic-semantic,ccp-64-patch-l1
  python -m experiments.semantic_critic --out=results/semantic_critic --table-only
"""


@dataclass(frozen=True)
class ScenePreset(Preset):
    """The trials of a study of several data sets, and their options.

    Attributes:
        metrics: of run_metrics.py, with {n} for the number of maps.
        shrink: divisor of the sides of all photos.
    """

    metrics: str = "miou,lpips,fid{n},kid{n}"
    shrink: int = 1


# The paper's claim first, then the rows that explain it; one scene after the other.
_PLAN = tuple((f"{scene}-{method}", seed) for scene in SCENES
              for methods in (list(METHODS)[:2], list(METHODS)[2:])
              for seed in (1, 2) for method in methods)
PRESETS = {
    "night": ScenePreset(
        _PLAN, dict(data="facades:datasets/facades,ccp:datasets/ccp", device="cpu", kimg=8.0),
        dict(preset="small", network_ticks=100)),
    # Seconds at 16x16, for the tests.
    "tiny": ScenePreset(
        plan_of("facades-64-patch-l1 facades-64-semantic-semantic", 1),
        dict(device="cpu", kimg=0.016),
        dict(preset="tiny", g_fmaps=4, d_fmaps=4, tick_kimg=0.008), metrics="miou,l1", shrink=4),
}
STUDY = Study(
    "semantic_critic", PRESETS, ROWS, fixed=("preset", "data", "segmenter", "judge", "kimg"),
    of_machine=("device", "gpus"), own={
        "data": dict(metavar="NAME:DIR,...", help="data sets of photos with maps, for the names "
                     "facades and ccp (default: in datasets/)"),
        "segmenter": dict(metavar="ROWS:RUN,...", help="networks with which the rows of semantic "
                          f"compare maps, for {', '.join(SCENES)}: snapshot, run directory or run "
                          "number"),
        "judge": dict(metavar="ROWS:RUN,...", help="networks that measure all rows (default: "
                      "--segmenter's, which flatters the rows that were trained with them)")})
MEASURES = [Measure("mIoU of the rarest classes (%)", "miou_rare", "higher", 100),
            Measure("mIoU (%)", "miou", "higher", 100),
            Measure("pixel accuracy (%)", "miou_accuracy", "higher", 100),
            Measure("FID", "fid", "lower"), Measure("KID x 1000", "kid", "lower", 1000),
            Measure("LPIPS", "lpips", "lower", 1, "{:.3f}")]


def main(argv: list[str]) -> int:
    """Train and measure what is not finished yet, and write the table. Return the exit status."""
    options = STUDY.begin(argv, __doc__, EXAMPLES)
    if not options.table_only:  # the table needs no networks
        check_judges(options)
    return STUDY.run(options, make_trial, write_tables)


def parse_named_values(options: Namespace, option: str, known: Sequence[str]) -> dict[str, str]:
    """Return {name: value} of an option 'NAME:VALUE,...'."""
    text = getattr(options, option)
    pairs = [part.partition(":") for part in text.split(",")] if text else []
    for name, colon, value in pairs:
        if name not in known or not value:
            raise UserError(f"--{option}={text}: {name}{colon}{value} is none of NAME:VALUE, where "
                            f"NAME is one of {', '.join(known)}")
    return {name: value for name, _, value in pairs}


def check_judges(options: Namespace) -> None:
    """Raise UserError if a network of --judge is also that of --segmenter, under any name."""
    # Imported here so that --help and wrong options answer at once.
    from training.segmentation.labeller import read_labeller

    for scene, judge in parse_named_values(options, "judge", SCENES).items():
        segmenter = parse_named_values(options, "segmenter", SCENES).get(scene)
        if segmenter and read_labeller(judge).digest == read_labeller(segmenter).digest:
            raise UserError(f"--judge={scene}:{judge}: the very network of --segmenter={scene}:"
                            f"{segmenter}, which flatters the rows that it trained; name another "
                            "one")


def split_row(row: str) -> tuple[str, str]:
    """Return (scene, method) of a row: 'ccp-64-patch-l1' is ('ccp-64', 'patch-l1')."""
    return next((scene, row.removeprefix(f"{scene}-")) for scene in SCENES
                if row.startswith(f"{scene}-"))


def make_trial(options: Namespace, row: str, seed: int) -> Trial:
    """Return the Trial of a row with a seed."""
    scene, method = split_row(row)
    name, side = SCENES[scene]
    preset, run = PRESETS[options.preset], options.out / f"{row}-seed{seed}"
    # Data and networks of the row.
    data = parse_named_values(options, "data", DATASETS).get(name)
    segmenter = parse_named_values(options, "segmenter", SCENES).get(scene)
    judge = parse_named_values(options, "judge", SCENES).get(scene, segmenter)
    by_semantics = METHODS[method]["reconstruction"] == "semantic"
    for option, value, needed in (("data", data, name),
                                  ("segmenter", segmenter if by_semantics else judge, scene)):
        if not value:
            raise UserError(f"--{option}: rows of `{scene}` need it: {needed}:...")
    # Commands.
    training = script("train.py", {
        "variant": "pix2pix", **preset.train, **METHODS[method],
        "segmenter": segmenter if by_semantics else None, "data": data,
        "resolution": side // preset.shrink, "metrics": "none", "device": options.device,
        "gpus": options.gpus, "kimg": f"{options.kimg:g}", "seed": seed, "run": run})
    info = open_dataset(data)
    split = measured_split(info)
    return Trial(row, seed, run, training, [
        script("run_metrics.py", {
            "network": run, "metrics": preset.metrics.format(n=info.splits.get(split)),
            "segmenter": judge, "data": data, "split": split, "floor": True}),
        script("generate.py", {"network": run, "maps": Path(data) / split, "out": run / PHOTOS})])


def measured_split(info: DatasetInfo) -> str:
    """Return the split of a data set whose maps are used: the test split, else validation; raise
    UserError if it has neither."""
    for split in ("test", "val"):
        if info.splits.get(split):
            return split
    raise UserError(f"--data: {info.path} has neither test nor validation photos to measure on; "
                    "make it with --num-test")


# The table

def write_tables(options: Namespace) -> Path:
    """Write semantic_critic.md, .json and, for each data set, a chart and a sheet of the finished
    trials; return the first path."""
    results = STUDY.results(options, make_trial)
    for part in (result[kind] for result in results for kind in ("values", "floors")):
        # Rename 'fid100' to a column's 'fid', whatever the number of maps.
        part |= {re.sub(r"^(fid|kid)\d+k?", r"\1", name): value for name, value in part.items()}
    # Each data set is a table of its own.
    scenes = {}
    for result in results:
        scene, method = split_row(result["row"])
        scenes.setdefault(scene, []).append({**result, "row": method})
    tables = {scene: summarize(own, MEASURES) for scene, own in scenes.items()}
    sentences = {scene: compare_methods(table) for scene, table in tables.items()}
    for scene, table in tables.items():
        draw_photos_of_maps(options, scene, scenes[scene])
        write_bars(options.out / f"semantic_critic-{scene}.png", table, MEASURES[:2],
                   f"{scene}: IoU of a segmentation network's labels and the maps")
    head = ["# Does a critic that knows the classes draw small ones better?", "",
            f"{options.kimg:g} kimg a row; photos from maps that the networks have not seen (the "
            "test split's or else the validation split's, by which segmentation networks choose "
            "their best snapshot), and a segmentation network's labels of them. "
            f"Rare are the {NUM_RARE} classes with the fewest pixels in the real maps. "
            f"{SPREAD} Of real photos mIoU is the ceiling; FID and KID are those "
            "of one half of them against the other. Beside this file are a chart and a sheet of "
            "photos for each data set.", ""]
    parts = [part for scene, own in scenes.items()
             for part in scene_text(options, scene, own, tables[scene], sentences[scene])]
    return STUDY.write(options, [*head, *parts], results,
                       scenes={scene: table_to_json(table) for scene, table in tables.items()},
                       differences=sentences)


def compare_methods(table: Table) -> list[str]:
    """Return sentences on how the rows of a data set differ, for each of the questions."""
    return list(dict.fromkeys(line for base, rows in COMPARED.items()
                              for line in differences(table, base, MEASURES, rows)))


def draw_photos_of_maps(options: Namespace, scene: str, results: Sequence[dict]) -> None:
    """Write semantic_critic-<scene>-photos.png: the first maps, their real photos, and the photos
    from each row's first seed."""
    from generation.translation import StoredMaps  # with TensorFlow

    runs = {}
    for result in results:
        if (Path(result["run"]) / PHOTOS / "translation.json").is_file():
            runs.setdefault(result["row"], Path(result["run"]) / PHOTOS)
    if not runs:
        return
    name, side = SCENES[scene]
    info = open_dataset(parse_named_values(options, "data", DATASETS)[name])
    split = measured_split(info)
    real = SplitPictures(info, split, side // PRESETS[options.preset].shrink)
    names = StoredMaps(info, split).names
    # One line per map: map, real photo, a photo from each row.
    cells = []
    for number in range(min(SHOWN, len(real))):
        rgb, labels = real.read(number)
        cells += [channels.colourise(labels, len(info.classes)), rgb, *(
            pictures.read_png(folder / IMAGES / f"{names[number]}.png")
            for folder in runs.values())]
    # Add names above, classes below.
    heads = ["map", "real photo", *runs]
    sheet = pictures.grey_sheet(np.stack(cells), len(heads))
    width = sheet.shape[1] // len(heads)
    head = np.concatenate([pictures.caption(text, width) for text in heads], axis=1)
    head = np.pad(head, ((0, 0), (0, sheet.shape[1] - head.shape[1]), (0, 0)), constant_values=255)
    pictures.save_png(options.out / f"semantic_critic-{scene}-photos.png",
                      pictures.with_legend(np.concatenate([head, sheet]), info.classes))


def scene_text(options: Namespace, scene: str, results: Sequence[dict], table: Table,
               sentences: Sequence[str]) -> list[str]:
    """Return the lines of Markdown on one data set: rows, differences, each class."""
    # Values of real photos: ceilings, or floors.
    ceilings, floors = results[0]["values"], results[0]["floors"]
    real = {measure.value: ceilings.get(f"{measure.value}_real", floors.get(measure.value))
            for measure in MEASURES}
    of_photos = ["real photos", "", *reference_cells(real, MEASURES), ""]
    # Classes: {name: its share of pixels, its IoU in real photos}
    entries = results[0]["classes"].get("miou", [])
    about = {entry["name"]: [f"{100 * entry['real_pixels']:.2f}", "–" if entry["real_iou"] is None
                             else f"{100 * entry['real_iou']:.1f}"] for entry in entries}
    shown = [entry for entry in entries[1:] if entry["real_pixels"]]
    rare = [entry["name"]
            for entry in sorted(shown, key=lambda entry: entry["real_pixels"])[:NUM_RARE]]
    head = ["pixels", "real photos"]
    return [f"## {scene}", "",
            judge_text(options, scene), "",
            results_table(results, table, MEASURES, {"training": training_time}, [of_photos]), "",
            "Differences larger than those between two seeds of any row:", "",
            *(f"* {line}" for line in sentences), "",
            f"IoU of the {len(rare)} rarest classes (%), the rarest first:", "",
            class_columns(results, "fake_iou", {name: about[name] for name in rare}, head), "",
            "IoU of each class (%):", "", class_columns(results, "fake_iou", about, head), ""]


def judge_text(options: Namespace, scene: str) -> str:
    """Return a sentence on the network that labels a data set's photos, and how it is related to
    the one with which rows were trained."""
    judge, segmenter = (parse_named_values(options, name, SCENES).get(scene)
                        for name in ("judge", "segmenter"))
    if judge is None:
        return (f"Labelled by {segmenter}, by which the rows of semantic were trained: that "
                "flatters them.")
    if segmenter is None:
        return f"Labelled by {judge}."
    return f"Labelled by {judge}, the rows of semantic trained by another network, {segmenter}."


if __name__ == "__main__":
    cli.run_main(main)
