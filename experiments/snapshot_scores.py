"""Which score finds the snapshot whose pairs train best? A comparison of --select-by's scores.

For every snapshot of a run: its scores for photos and maps (FID, KID, KID of pairs, photos by
labels), and the mean IoU on real test photos of a segmentation network trained only on that
snapshot's pairs. A score is as good as its order of the snapshots: its rank correlation with that
IoU, and how much IoU is lost by the snapshot that it selects.

    python -m experiments.snapshot_scores --run=results/00001-2d-ccp-32 --out=results/scores \\
        --segmenter=results/00003-segmenter-ccp-32

Preset `night` (the default): the Clothing Co-Parsing photos at 64x64, a U-Net, 8 kimg per snapshot.
snapshot_scores.md and .json grow with every snapshot; the same command continues.
"""

import dataclasses
import functools
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib import cli
from dnnlib.util import UserError
from experiments.command import Preset, Study
from experiments.study import Trial, script
from experiments.tables import (
    Measure,
    Table,
    cell_text,
    markdown_table,
    summarize,
)
from training.gan.snapshot_score import SELECT_BY, add_labels_score, selecting_score

EXAMPLES = """\
  python -m experiments.snapshot_scores --run=results/00001-2d-ccp-32 \\
      --segmenter=results/00003-segmenter-ccp-32
  python -m experiments.snapshot_scores --run=results/00001-2d-ccp-32 --rows=000040,000060 --seeds=1
  python -m experiments.snapshot_scores --out=results/snapshot_scores --table-only
"""


@dataclass(frozen=True)
class ScoresPreset(Preset):
    """The options of a study, whose rows are the snapshots of --run.

    Attributes:
        seeds: of the segmentation networks.
        fakes: number of fakes for the scores, as in the metrics' names.
        pairs: number of pairs that a segmentation network is trained on.
    """

    seeds: tuple[int, ...] = (1,)
    fakes: str = "1k"
    pairs: int = 2000


PRESETS = {
    "night": ScoresPreset((), dict(data="datasets/ccp", device="cpu", kimg=8.0),
                          dict(preset="tiny", resolution=64), seeds=(1, 2)),
    # Seconds at 16x16, for the tests.
    "tiny": ScoresPreset((), dict(device="cpu", kimg=0.064),
                         dict(preset="tiny", unet_fmaps=4, minibatch=8, tick_kimg=0.032),
                         fakes="32", pairs=16),
}
STUDY = Study(
    "snapshot_scores", PRESETS, (), fixed=("preset", "run", "segmenter", "data", "kimg"),
    of_machine=("device", "gpus", "inception"), needs=("data", "run", "segmenter"),
    about_rows="kimg of snapshots, as in their names (default: all)", own={
        "run": dict(metavar="DIR", help="run directory whose snapshots are compared"),
        "segmenter": dict(metavar="RUN_OR_FILE", help="segmentation network trained on real "
                          "photos"),
        "data": dict(metavar="DIR", help="data set of real photos with labels"),
        "inception": dict(metavar="PATH", help="as for run_metrics.py")})
MIOU = Measure("mIoU of a network taught (%)", "miou", "higher", 100)
CURVE = "network-snapshot-*.safetensors"


def main(argv: list[str]) -> int:
    """Measure what is not finished yet and write the table. Return the exit status."""
    options = STUDY.begin(argv, __doc__, EXAMPLES)
    # Make rows and plan from the run's snapshots.
    rows, preset = tuple(snapshots_of(options.run)), PRESETS[options.preset]
    plan = tuple((row, seed) for seed in preset.seeds for row in rows)
    study = dataclasses.replace(STUDY, rows=rows, presets={
        options.preset: dataclasses.replace(preset, plan=plan)})
    return study.run(options, make_trial, functools.partial(write_tables, study))


def snapshots_of(run: str | Path) -> dict[str, Path]:
    """Return {kimg as in the name: path} of the snapshots of a run that draw maps."""
    # Imported here so that --help and wrong options answer at once.
    from training.snapshots import kimg_in_name, read_header

    paths = sorted(Path(run).glob(CURVE), key=kimg_in_name)
    found = {path.stem.rpartition("-")[2]: path for path in paths if read_header(path)["classes"]}
    if not found:
        raise UserError(f"--run={run}: no snapshots of a network that draws maps ({CURVE})")
    return found


def make_trial(options: Namespace, row: str, seed: int) -> Trial:
    """Return the Trial of a snapshot with a seed."""
    preset, snapshot = PRESETS[options.preset], snapshots_of(options.run)[row]
    run, pairs = options.out / f"{row}-seed{seed}", options.out / f"pairs-{row}"
    names = [f"{kind}{preset.fakes}{which}" for kind, which in (
        ("fid", ""), ("kid", ""), ("kid", "_pair"), ("labels", ""))]
    return Trial(
        row, seed, run,
        # Keep the padding that the snapshot draws, as its scores do.
        preparations=[script("generate.py", {"network": snapshot, "num": preset.pairs,
                                             "keep_padding": True, "out": pairs})],
        training=script("train.py", {
            "variant": "segmenter", **preset.train, "data": options.data, "data2": pairs,
            "mix": 1, "device": options.device, "gpus": options.gpus,
            "kimg": f"{options.kimg:g}", "seed": seed, "run": run}),
        evaluations=[
            script("run_metrics.py", {"network": run, "metrics": "miou", "data": options.data,
                                      "split": "test"}),
            script("run_metrics.py", {
                "network": snapshot, "metrics": ",".join(names), "data": options.data,
                "split": "train", "segmenter": options.segmenter,
                "inception": options.inception})],
        records=[Path(options.run)])


def write_tables(study: Study, options: Namespace) -> Path:
    """Write snapshot_scores.md and .json of the finished trials; return the first path."""
    results = [{**result, "values": add_labels_score(result["values"])}
               for result in study.results(options, make_trial)]
    mious, scores = summarize(results, [MIOU]), {}
    for row, cells in mious.items():
        values = next(result["values"] for result in results if result["row"] == row)
        scores[row] = {"miou": cells[MIOU.title].mean,
                       **{kind: values[selecting_score(values, kind)] for kind in SELECT_BY}}
    judged = judge(scores)
    return study.write(options, report_lines(options, results, mious, scores, judged), results,
                       scores=scores, judged=judged)


def judge(table: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Return {--select-by: {'correlation': Spearman's, positive if lower scores go with higher
    mIoU; None for fewer than three snapshots, or if either is the same for all; 'selects': row;
    'lost': mIoU below the best row}}.

    Args:
        table: {row: {'miou': mean over seeds, and the value of each --select-by}}.
    """
    # Imported here so that --help and wrong options answer at once.
    from scipy.stats import spearmanr

    judged, mious = {}, [row["miou"] for row in table.values()]
    for kind in SELECT_BY if table else ():
        scores = [row[kind] for row in table.values()]
        chosen = min(table, key=lambda row: table[row][kind])
        has_order = len(table) > 2 and len({*scores}) > 1 < len({*mious})
        judged[kind] = {
            "correlation": -float(spearmanr(scores, mious).statistic) if has_order else None,
            "selects": chosen, "lost": max(mious) - table[chosen]["miou"]}
    return judged


def report_lines(options: Namespace, results: Sequence[dict], mious: Table,
                 scores: dict[str, dict[str, float]], judged: dict[str, dict[str, Any]]
                 ) -> list[str]:
    """Return the lines of snapshot_scores.md: the snapshots and the scores."""
    snapshots = [[row, cell_text(mious[row][MIOU.title], MIOU),
                  *(f"{values[kind]:.4g}" for kind in SELECT_BY)]
                 for row, values in scores.items()]
    ways = [[f"`{kind}`", "–" if one["correlation"] is None else f"{one['correlation']:.2f}",
             one["selects"], f"{one['lost']:.1f}"] for kind, one in judged.items()]
    return [
        "# Which score finds the best snapshot?", "",
        f"Snapshots of {options.run}; segmentation networks that learned from "
        f"{PRESETS[options.preset].pairs} pairs of each, {options.kimg:g} kimg, tested on the real "
        f"test photos of {options.data}: mean over seeds ± half of the spread. Scores are better "
        "where they are lower.", "",
        markdown_table(["kimg", MIOU.title, *SELECT_BY], snapshots), "",
        markdown_table(["--select-by", "rank correlation with mIoU", "selects", "mIoU lost"],
                       ways), ""]


if __name__ == "__main__":
    cli.run_main(main)
