"""Are twenty labels enough? A decoder on a generator's features against a segmentation network.

For 5, 11, 20, 50 and 100 labels. What they label:

    real        photos: a segmentation network is trained on them, as usual
    teacher     generated pictures, labelled by a segmentation network trained on all real photos:
                a decoder is trained on them and draws pairs, on which the network is trained
    projected   photos projected into the generator (generate.py --project) with their own maps:
                a decoder, pairs and the network as before
    2d          photos (chosen at random like the others, but not the same ones): Style-C-GAN-2D is
                trained on them, draws pairs, and so on

--architecture says which network learns from them. In rows that begin with `imagenet-` it is
DeepLabV3+, and starts with ImageNet's weights. All are tested on
the data set's real test photos, by the mean IoU of its classes and of two labels, any class and the
background. In all rows, the labels of its validation photos select the best snapshot. A decoder's
own best snapshot is selected by a tenth of its labels, if that makes two: decoders of 20, 50 and
100 labels are trained on 18, 45 and 90, those of 5 and 11 on all. The protocol is that of "Teaching
GAN to generate per-pixel annotation" (2020).

    python -m experiments.twenty_labels --rgb=results/00000-rgb-ccp-64 \\
        --teacher=results/00003-segmenter-ccp-64 --out=results/twenty

Preset `night` (the default): the Clothing Co-Parsing photos at 64x64, DeepLabV3+ over
EfficientNet-Lite0, on two CPU cores, the most valuable answers first. Preset `cars`: the same for a
data set of car parts, without 2d; docs/experiments.md has the commands that make it and its
generator. twenty_labels.md, .json and .png grow with every row; the same command continues.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnnlib import cli, util
from dnnlib.charts import growth_chart
from dnnlib.util import UserError, format_time
from experiments.command import Preset, Study
from experiments.study import Trial, script
from experiments.tables import (
    Measure,
    Table,
    cell_text,
    markdown_table,
    summarize,
    table_to_json,
)

NUMBERS = (5, 11, 20, 50, 100)
KINDS = ("real", "teacher", "projected", "2d")
IMAGENET = "imagenet-"
# Options of train.py for the network that learns, by --architecture.
LEARNERS = {"deeplab": dict(preset="small", no_imagenet=True), "unet": dict(preset="tiny")}
ROWS = tuple(f"{start}{kind}-{number}" for start in ("", IMAGENET) for kind in KINDS
             for number in NUMBERS)
# "Teaching GAN to generate per-pixel annotation", mIoU in per cent.
PAPER = (("LSUN cars, 20 labels, without ImageNet", 69.8, 94.1),
         ("LSUN cars, 20 labels, with ImageNet", 90.5, 96.1),
         ("FFHQ hair, with ImageNet", 75.5, 82.4))
FIRST_SEED = 100_000  # of pairs, times the row's seed; labelled pictures begin at 1000 times it
EXAMPLES = """\
  python -m experiments.twenty_labels --rgb=results/00000-rgb-ccp-64 \\
      --teacher=results/00003-segmenter-ccp-64
  python -m experiments.twenty_labels --rows=real-20,projected-20 --seeds=1,2 --architecture=unet
  python -m experiments.twenty_labels --out=results/twenty_labels --table-only
"""


@dataclass(frozen=True)
class LabelsPreset(Preset):
    """The trials of a study, and their options; `train` are those of the segmentation networks,
    besides those of LEARNERS.

    Attributes:
        decoder, gan: options of train.py for decoders, and for the rows of 2d.
        projection: options of generate.py for projecting photos.
        pairs: number of pairs that a segmentation network is trained on.
    """

    decoder: dict = field(default_factory=dict)
    gan: dict = field(default_factory=dict)
    projection: dict = field(default_factory=dict)
    pairs: int = 5000


def _plan(kinds, numbers, seeds):
    return tuple((f"{kind}-{number}", seed) for number in numbers for seed in seeds
                 for kind in kinds)


_OURS = ("real", "teacher", "projected")
_BOTH = tuple(start + kind for start in ("", IMAGENET) for kind in _OURS)
PRESETS = {
    "night": LabelsPreset(
        (*_plan(_BOTH, (20,), (1, 2, 3)), *_plan(_OURS, (5, 100, 50, 11), (1, 2, 3)),
         *_plan(("2d",), (20, 100), (1,))),
        dict(data="datasets/ccp", untagged="datasets/ccp_untagged", device="cpu", kimg=8.0,
             architecture="deeplab", resolution=64), train={},
        decoder=dict(preset="small"),
        gan=dict(preset="small-64", minibatch=16, lrate=0.003, r1_gamma=1, r1_interval=2,
                 smoothing_kimg=5, classes_kimg=60, metrics="none"),
        projection=dict(space="w+", steps=300)),
    # Seconds at 16x16, for the tests.
    "tiny": LabelsPreset(
        _plan(_OURS, (5,), (1,)), dict(device="cpu", kimg=0.064, architecture="unet",
                                       resolution=16),
        train=dict(unet_fmaps=4, minibatch=8, tick_kimg=0.032),
        decoder=dict(preset="tiny", kimg=0.04, tick_kimg=0.04),
        gan=dict(preset="demo-32", resolution=16, classes_kimg=0.04, metrics="none"),
        projection=dict(space="w+", steps=2), pairs=16),
}
PRESETS["cars"] = LabelsPreset(
    (*_plan(("real", "projected", f"{IMAGENET}real", f"{IMAGENET}projected"), (20,), (1, 2, 3)),
     *_plan(("real", "projected"), (5, 100), (1, 2, 3))),
    dict(data="datasets/cars", device="cpu", kimg=8.0, architecture="deeplab", resolution=64),
    PRESETS["night"].train, PRESETS["night"].decoder, projection=PRESETS["night"].projection)
STUDY = Study(
    "twenty_labels", PRESETS, ROWS,
    fixed=("preset", "data", "untagged", "rgb", "teacher", "architecture", "resolution", "kimg"),
    of_machine=("device", "gpus"), together=("data", "untagged"), own={
        "data": dict(metavar="DIR", help="data set of real photos with labels"),
        "untagged": dict(metavar="DIR", help="data set of photos without labels, for the rows of "
                         "2d"),
        "rgb": dict(metavar="RUN_OR_FILE", help="RGB network whose features decoders read, and "
                    "from which the rows of 2d begin"),
        "teacher": dict(metavar="RUN_OR_FILE", help="segmentation network trained on all real "
                        "photos"),
        "architecture": dict(choices=LEARNERS, help="the network that learns from labels and "
                             "pairs: DeepLabV3+ or a small U-Net (default: the preset's)"),
        "resolution": dict(type=cli.positive_int, metavar="N", help="size of its pictures; that of "
                           "the RGB network (default: the preset's)")})
MEASURES = [Measure("mIoU (%)", "miou", "higher", 100),
            Measure("mIoU of two labels (%)", "miou_any", "higher", 100),
            Measure("pixel accuracy (%)", "miou_accuracy", "higher", 100)]


def main(argv: list[str]) -> int:
    """Train and measure what is not finished yet, and write the table. Return the exit status."""
    return STUDY.run(STUDY.begin(argv, __doc__, EXAMPLES), make_trial, write_tables)


# A row's commands

def make_trial(options: Namespace, row: str, seed: int) -> Trial:
    """Return the Trial of a row with a seed."""
    kind, number = row.removeprefix(IMAGENET).split("-")
    run, preset = options.out / f"{row}-seed{seed}", PRESETS[options.preset]
    training = {"variant": "segmenter", **LEARNERS[options.architecture], **preset.train,
                "resolution": options.resolution, "data": options.data, **_where(options),
                "kimg": f"{options.kimg:g}", "seed": seed, "run": run}
    if row.startswith(IMAGENET):
        if options.architecture != "deeplab":
            raise UserError(f"--architecture={options.architecture}: rows of `{row}` need deeplab, "
                            "whose weights ImageNet's are")
        training |= {"no_imagenet": None, "imagenet": True}
    preparations = []
    if kind == "real":
        training["num_images"] = number
    else:
        preparations, pairs = pair_commands(options, kind, int(number), seed)
        training |= {"data2": pairs, "mix": 1}
    return Trial(row, seed, run, script("train.py", training), [script("run_metrics.py", {
        "network": run, "metrics": "miou", "data": options.data, "split": "test"})], preparations)


def _where(options):
    return {"device": options.device, "gpus": options.gpus}


def _need(options, name, row):
    """Return the value of an option that a row needs; raise UserError if it is missing."""
    value = getattr(options, name)
    if not value:
        raise UserError(f"--{name}: rows of `{row}` need it")
    return value


def pair_commands(options: Namespace, kind: str, number: int, seed: int
                  ) -> tuple[list[list[str]], Path]:
    """Return (commands, folder of pairs): a network is trained on `number` labels, and draws pairs.
    """
    preset, name = PRESETS[options.preset], f"{kind}-{number}-{seed}"
    rgb = _need(options, "rgb", kind)
    if kind == "2d":
        if not preset.gan:
            raise UserError(f"--preset={options.preset}: has no options for rows of `2d`")
        run = options.out / f"{name}-gan"
        commands = gan_commands(options, number, seed, run)
    else:
        # Train a decoder on generated pictures with a teacher's labels, or on projected photos.
        run, labels = options.out / f"{name}-decoder", options.out / f"{name}-labels"
        if kind == "teacher":
            first = 1000 * seed
            labelled = {"seeds": f"{first}-{first + number - 1}", "for_labelling": True,
                        "teacher": _need(options, "teacher", kind)}
        else:
            labelled = {"project": options.data, "num_images": number, "seed": seed,
                        **preset.projection}
        commands = [
            script("generate.py", {"network": rgb, **labelled, "out": labels}),
            script("train.py", {"variant": "decoder", **preset.decoder, "labels": labels,
                                "init_from": rgb, **_where(options), "seed": seed, "run": run})]
    # Draw pairs with their padding, from other seeds than those of the labelled pictures.
    pairs = options.out / f"{name}-pairs"
    return [*commands, script("generate.py", {
        "network": run, "num": preset.pairs, "first_seed": FIRST_SEED * seed or FIRST_SEED // 2,
        "keep_padding": True, "out": pairs})], pairs


def gan_commands(options: Namespace, number: int, seed: int, run: Path) -> list[list[str]]:
    """Return the commands that train a Style-C-GAN-2D on `number` labelled photos."""
    photos, data = options.out / "photos", options.out / f"2d-{number}-{seed}-data"
    return [
        script("dataset_tool.py", {"out": photos, "split": "train"}, "extract", options.data),
        script("dataset_tool.py", {
            "source": photos, "out": data, "num_images": number, "num_val": 0, "num_test": 0,
            "resolution": options.resolution, "seed": seed},
            "create_from_masks"),
        script("train.py", {
            "variant": "2d", **PRESETS[options.preset].gan, "data": data,
            "untagged": options.untagged, "init_from": options.rgb, **_where(options),
            "seed": seed, "run": run})]


# The table

def write_tables(options: Namespace) -> Path:
    """Write twenty_labels.md, .json and .png of the finished trials; return the first path."""
    results = STUDY.results(options, make_trial)
    table = summarize(results, MEASURES)
    # {title of a measure: {kind of row: [(labels, mean, half of the spread)]}}
    curves = {measure.title: {} for measure in MEASURES[:2]}
    for row, cells in table.items():
        kind, _, number = row.rpartition("-")
        for title, series in curves.items():
            series.setdefault(kind, []).append(
                (int(number), cells[title].mean, (cells[title].spread or 0) / 2))
    if results:
        util.atomic_write(options.out / "twenty_labels.png", growth_chart(
            curves, "labels", "segmentation of real test photos", IMAGENET))
    return STUDY.write(options, report_lines(options, results, table), results,
                       rows=table_to_json(table), paper=PAPER)


def report_lines(options: Namespace, results: Sequence[dict], table: Table) -> list[str]:
    """Return the lines of twenty_labels.md: a table for each measure, labels against kinds; the
    paper's numbers."""
    # Make tables of labels against kinds.
    kinds = list(dict.fromkeys(row.rpartition("-")[0] for row in table))
    numbers = [number for number in NUMBERS if any(f"{kind}-{number}" in table for kind in kinds)]
    parts = []
    for measure in MEASURES:
        rows = [[f"`{kind}`", *(cell_text(table.get(f"{kind}-{number}", {}).get(measure.title),
                                          measure) for number in numbers)] for kind in kinds]
        parts += [f"## {measure.title}", "",
                  markdown_table(["labels of", *map(str, numbers)], rows), ""]
    seeds = max((sum(result["row"] == row for result in results) for row in table), default=0)
    total = sum(result["preparation_sec"] + result["training_sec"] for result in results)
    return [
        "# Are twenty labels enough?", "",
        f"Tested on the real test photos of {options.data}, {options.resolution}x"
        f"{options.resolution}; {options.kimg:g} kimg for every segmentation network "
        f"({options.architecture}), {PRESETS[options.preset].pairs} pairs where it learns from "
        "such. "
        "The labels of the validation photos choose the best snapshot of every row; of a decoder a "
        "tenth of its own labels does, if that makes two: it learns from 18 of 20, 45 of 50, 90 of "
        "100. "
        f"Mean over up to {seeds} seeds ± half of the distance between the smallest and the "
        f"largest. {format_time(total)} of preparations and trainings.", "",
        *parts,
        "## The paper (baseline, ours; other data and sizes)", "",
        markdown_table(["", "labelled photos", "decoder"],
                       [[name, f"{base:.1f}", f"{ours:.1f}"] for name, base, ours in PAPER]), ""]


if __name__ == "__main__":
    cli.run_main(main)
