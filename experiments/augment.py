"""Are generated pairs useful? Train a segmentation network on real pairs, on generated, on both.

For 10, 50, 200 and all real photos, with the same number of steps in every row, and three seeds.
All are tested on the data set's real test photos, which neither the segmentation network nor the
generator was trained on.

    python generate.py --network=results/00001-2d-ccp-32 --num=5000 --keep-padding \\
        --out=datasets/pairs
    python -m experiments.augment --pairs=datasets/pairs --out=results/augment

Row real-50 has 50 labelled photos, both-50 the same 50 and the pairs, half of every minibatch each,
`pairs` only the pairs. In all rows, the generator of the pairs was trained on all labelled training
photos. So the question is whether its pairs add to a few labels, not how well it would do with as
few itself. The best snapshot of a row is selected by all validation photos of the data set.

Preset `night` (the default): a U-Net at 64x64 on the Clothing Co-Parsing photos, 16 kimg per row:
27 trainings of five to seven minutes each on one core with AVX-512 that had other work too, the
most valuable answers first. Preset `photos-64`: DeepLabV3+ over EfficientNet-Lite0 with ImageNet's
weights at 64x64; half an hour per training on two cores with AVX2. Expected: both above real at 10
and 50 photos, and no better at all of them. augment.md, .json and .png grow with every row; the
same command continues.
"""

from argparse import Namespace
from pathlib import Path

from dnnlib import cli
from dnnlib.data.labelled import open_labelled
from experiments.command import Preset, Study, plan_of
from experiments.study import Trial, script
from experiments.tables import (
    SPREAD,
    Measure,
    class_columns,
    differences,
    results_table,
    summarize,
    table_to_json,
    training_time,
    write_bars,
)

NUMBERS = ("10", "50", "200", "all")
ROWS = ("pairs", *(f"{kind}-{number}" for number in NUMBERS for kind in ("real", "both")))
EXAMPLES = """\
  python -m experiments.augment --pairs=datasets/pairs --out=results/augment
  python -m experiments.augment --pairs=datasets/pairs --rows=real-10,both-10 --seeds=0 --kimg=4
  python -m experiments.augment --out=results/augment --table-only
"""

_PLAN = (*plan_of("real-50 both-50 real-10 both-10 pairs", 1, 2, 3),
         *plan_of("real-all both-all real-200 both-200", 1, 2, 3))
PRESETS = {
    "night": Preset(_PLAN, dict(data="datasets/ccp", device="cpu", kimg=16.0, mix=0.5),
                    dict(preset="tiny", resolution=64)),
    "photos-64": Preset(_PLAN, dict(data="datasets/ccp", device="cpu", kimg=20.0, mix=0.5),
                        dict(preset="small", resolution=64)),
    # Seconds at 16x16, for the tests.
    "tiny": Preset(plan_of("real-10 both-10", 1), dict(device="cpu", kimg=0.064, mix=0.5),
                   dict(preset="tiny", unet_fmaps=4, minibatch=8, tick_kimg=0.032)),
}
STUDY = Study(
    "augment", PRESETS, ROWS, fixed=("preset", "data", "pairs", "mix", "kimg"),
    of_machine=("device", "gpus"), needs=("data", "pairs"), own={
        "data": dict(metavar="DIR", help="data set of real photos with labels"),
        "pairs": dict(metavar="DIR", help="generated pairs: a folder of generate.py --num, or a "
                      "data set"),
        "mix": dict(type=cli.finite, metavar="SHARE", help="share of the pairs in a minibatch in "
                    "the rows of both (default: 0.5)")})
MEASURES = [Measure("mIoU (%)", "miou", "higher", 100),
            Measure("mIoU of the classes (%)", "miou_foreground", "higher", 100),
            Measure("pixel accuracy (%)", "miou_accuracy", "higher", 100)]


def main(argv: list[str]) -> int:
    """Train and measure what is not finished yet, and write the table. Return the exit status."""
    options = STUDY.begin(argv, __doc__, EXAMPLES)
    left_out = []
    if not options.table_only:
        # Rows of as many photos as there are, or more, would equal those of all.
        count = open_labelled(options.data).splits["train"]
        left_out = [f"{kind}-{number}" for number in NUMBERS for kind in ("real", "both")
                    if number.isdecimal() and int(number) >= count]
    return STUDY.run(options, make_trial, write_tables, left_out=left_out)


def make_trial(options: Namespace, row: str, seed: int) -> Trial:
    """Return the Trial of a row with a seed."""
    kind, _, number = row.partition("-")
    run = options.out / f"{row}-seed{seed}"
    training = {"variant": "segmenter", **PRESETS[options.preset].train, "data": options.data,
                "device": options.device, "gpus": options.gpus, "kimg": f"{options.kimg:g}",
                "num_images": number if number.isdecimal() else None, "seed": seed, "run": run}
    if kind != "real":
        training |= {"data2": options.pairs, "mix": options.mix if kind == "both" else 1}
    return Trial(row, seed, run, script("train.py", training), [script("run_metrics.py", {
        "network": run, "metrics": "miou", "data": options.data, "split": "test"})])


def write_tables(options: Namespace) -> Path:
    """Write augment.md, .json and .png of the finished trials; return the first path."""
    results = STUDY.results(options, make_trial)
    table = summarize(results, MEASURES)
    # Compare rows with and without pairs, for each number of photos.
    sentences = list(dict.fromkeys(
        line for number in NUMBERS if f"both-{number}" in table for line in differences(
            {row: table[row] for row in (f"real-{number}", f"both-{number}") if row in table},
            f"real-{number}", MEASURES)))
    if results:
        write_bars(options.out / "augment.png", table, MEASURES[:2],
                   "segmentation of real test photos after training on real photos, pairs, both")
    return STUDY.write(options, [
        "# Are generated pairs useful?", "",
        f"Tested on the real test photos of {options.data}; {options.kimg:g} kimg a row. Pairs: "
        f"{options.pairs}, {options.mix:g} of a minibatch in the rows of both. {SPREAD}", "",
        results_table(results, table, MEASURES, {"training": training_time}), "",
        "Differences larger than those between two seeds of either row:", "",
        *(f"* {line}" for line in sentences), "",
        "## IoU of each class (%)", "", class_columns(results, "real_iou"), "",
        "## Accuracy of each class (%)", "", class_columns(results, "real_accuracy"), ""],
        results, rows=table_to_json(table), differences=sentences)


if __name__ == "__main__":
    cli.run_main(main)
