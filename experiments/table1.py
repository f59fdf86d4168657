"""The paper's table 1, reproduced: does the second critic help, does detaching, does augmentation?

One RGB network is trained, or given; from it every row trains for the same kimg with the same
seeds: Style-GAN continues with colours, Style-C-GAN has one critic, Style-C-GAN-2D two. Further
rows of 2D: the joint critic's gradient does not reach the colours (detached), rare classes drawn
more often (balance), maps that begin as copies (copies), no photos without labels (labelled); and
with augmentation (ada). All are measured in the same way.

    python -m experiments.table1 --rgb=results/00000-rgb-ccp-32 --out=results/table1

Preset `night` (the default): 699 labelled and 1,062 unlabelled photos at 32x32, 60 kimg per row, on
two CPU cores with AVX2: twenty minutes per row and a few to measure it; fourteen of them, the most
valuable answers first. Preset `paper`: ModaNet at 512x512 on four GPUs, the paper's own table; a
week or two per model, as its authors report. Expected there: FID of Style-GAN below that of
Style-C-GAN-2D, and that below Style-C-GAN's. table1.md, .json and .png grow with every row. The
same command continues; a row can be trained by hand with the command printed.
"""

import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnnlib import cli, util
from dnnlib.util import UserError
from experiments.command import Preset, Study, plan_of
from experiments.study import Trial, script
from experiments.tables import (
    SPREAD,
    Measure,
    Table,
    differences,
    markdown_table,
    reference_cells,
    results_table,
    summarize,
    table_to_json,
    training_time,
    write_bars,
)
from metrics.image_sources import is_dataset
from training.config import TrainingConfig

# {row: options of train.py that make it}
ROWS = {
    "rgb": {"variant": "rgb"},
    "c": {"variant": "c", "untagged": None},
    "c-ada": {"variant": "c", "untagged": None, "augment": "ada"},
    "2d": {"variant": "2d"},
    "2d-ada": {"variant": "2d", "augment": "ada"},
    "2d-detached": {"variant": "2d", "joint_rgb_grad": 0},
    "2d-detached-ada": {"variant": "2d", "joint_rgb_grad": 0, "augment": "ada"},
    "2d-balance": {"variant": "2d", "balance": 0.5},
    "2d-copies": {"variant": "2d", "grow_g": "copy", "grow_d": "copy"},
    "2d-labelled": {"variant": "2d", "untagged": None},
    "2d-contrast": {"variant": "2d", "map_contrast": 15},
}
BASE, LABELLED = "2d", "2d-labelled"
# Options of train.py that a row without maps does not take.
OF_MAPS = ("binary_kimg", "classes_kimg", "grow_g", "grow_d", "map_noise", "map_contrast",
           "mirror_pairs", "balance")
# Table 1 of the paper: Inception Score, its deviation over five batches, FID.
PAPER = {"Style-GAN": (5.06, 0.11, 12.34), "Style-C-GAN": (4.79, 0.12, 25.10),
         "Style-C-GAN-2D": (4.69, 0.12, 20.97)}
START = "start.safetensors"  # in --out: a copy of --rgb
EXAMPLES = """\
  python -m experiments.table1 --rgb=results/00000-rgb-ccp-32 --out=results/table1
  python -m experiments.table1 --rgb=results/00000-rgb-ccp-32 --out=results/short --kimg=40 \\
      --rows=2d,2d-ada --seeds=0
  python -m experiments.table1 --out=results/table1 --table-only
  python -m experiments.table1 --preset=paper --out=results/paper --dry-run
"""


@dataclass(frozen=True)
class TablePreset(Preset):
    """The trials of a table, and their options.

    Attributes:
        rgb: options of train.py for the RGB network; `train` are those for rows, besides their own.
        ada: further options for the rows with augmentation.
        fakes: number of fakes for metrics, as in their names.
        split: of the reals. score: the Inception Score's value, '' of ten splits or '_5' of five.
    """

    rgb: dict = field(default_factory=dict)
    ada: dict = field(default_factory=dict)
    fakes: str = "1k"
    split: str = "train"
    score: str = ""

    def measures(self) -> list[Measure]:
        """Return the columns of the table."""
        n = self.fakes
        return [Measure("KID x 1000", f"kid{n}", "lower", 1000),
                Measure("FID", f"fid{n}", "lower"),
                Measure("IS", f"is{n}{self.score}", "higher", form="{:.2f}"),
                Measure("class distance", f"classes{n}", "lower", form="{:.3f}"),
                Measure("classes drawn", f"maps{n}_classes", "higher"),
                Measure("specks (%)", f"maps{n}", "lower", 100)]


PRESETS = {
    # The networks of preset small-32; growth and rates with which docs/results.md got maps.
    "night": TablePreset(
        plan=(*plan_of("2d 2d-ada c rgb", 1000), *plan_of("2d c", 1001),
              *plan_of("2d-contrast 2d-copies 2d-balance 2d-detached 2d-labelled c-ada", 1000),
              *plan_of("2d-ada", 1001), *plan_of("2d-detached-ada", 1000)),
        options=dict(data="datasets/ccp", untagged="datasets/ccp_untagged",
                     reals="datasets/ccp_all", device="cpu"),
        rgb=dict(preset="small-32", metrics="none"),
        train=dict(preset="small-32", minibatch=16, lrate=0.004, r1_gamma=1, grow_g="empty",
                   grow_d="fresh", map_contrast=0, smoothing_kimg=5, binary_kimg=0,
                   classes_kimg=60, metrics="none"),
        ada=dict(ada_kimg=100)),
    # The paper's table. Best snapshots by FID of the validation split, as the paper selects them.
    "paper": TablePreset(
        plan=plan_of("rgb c 2d", 1000), options=dict(data="datasets/modanet", gpus=4),
        rgb=dict(preset="paper"), train=dict(preset="paper"),
        fakes="50k", split="test", score="_5"),
    # Seconds at 8x8, for the tests; minimal networks.
    "tiny": TablePreset(
        plan=plan_of("2d c", 1000), options=dict(device="cpu"),
        rgb=dict(preset="demo-32", resolution=8, fmap_base=64, fmap_max=8, latent_size=8,
                 minibatch=8, rgb_kimg=0.016, tick_kimg=0.016, minibatch_repeats=1),
        train=dict(preset="demo-32", minibatch=8, binary_kimg=0.016, classes_kimg=0.032,
                   tick_kimg=0.016, minibatch_repeats=1),
        fakes="16"),
}
STUDY = Study(
    "table1", PRESETS, tuple(ROWS),
    fixed=("preset", "rgb", "data", "untagged", "reals", "resolution", "kimg"),
    of_machine=("device", "gpus", "inception"), together=("data", "untagged", "reals"), own={
        "rgb": dict(metavar="SNAPSHOT_OR_RUN", help="RGB network that all rows begin from, copied "
                    "to --out (default: one is trained first)"),
        "data": dict(metavar="DIR", help="data set with labels"),
        "untagged": dict(metavar="DIR", help="data set of photos without labels, for all rows with "
                         "an image critic"),
        "reals": dict(metavar="DIR", help="data set or folder of all photos, for KID and FID "
                      "(default: --data)"),
        "resolution": dict(type=int, metavar="N", help="of the RGB network, if it is trained"),
        "inception": dict(metavar="PATH", help="as for run_metrics.py")})


def main(argv: list[str]) -> int:
    """Train and measure what is not finished yet, and write the table. Return the exit status."""
    options = STUDY.begin(argv, __doc__, EXAMPLES)
    if options.rgb and options.resolution:
        raise UserError("--resolution: without effect: rows have the resolution of --rgb; leave it "
                        "out")
    options.kimg = options.kimg or sum(_stage_lengths(options.preset))
    # Report what is missing before anything is trained.
    for name in STUDY.together if not options.table_only else ():
        if getattr(options, name) and not Path(getattr(options, name)).exists():
            raise UserError(f"--{name}={getattr(options, name)}: no such folder")
    return STUDY.run(options, make_trial, write_tables,
                     left_out=() if options.untagged else (LABELLED,), first=rgb_training(options),
                     prepare=lambda: options.rgb and copy_network(options.rgb, options.out))


# Trainings and evaluations

def _stage_lengths(preset):
    """Return the kimg of the binary stage and of the classes stage in a preset's rows."""
    options = PRESETS[preset].train
    base = TrainingConfig.preset(options["preset"], {})
    return tuple(options.get(name, getattr(base, name)) for name in ("binary_kimg", "classes_kimg"))


def rgb_training(options: Namespace) -> Trial | None:
    """Return the Trial of the RGB network, None if one is given."""
    if options.rgb:
        return None
    run = options.out / "start"
    common = {"variant": "rgb", "run": run, "resolution": options.resolution,
              **_where(options), "untagged": options.untagged}
    return Trial("rgb network", 1000, run, script("train.py", PRESETS[options.preset].rgb | {
        name: value for name, value in common.items() if value is not None}), [])


def make_trial(options: Namespace, row: str, seed: int) -> Trial:
    """Return the Trial of a row with a seed."""
    if row == LABELLED and not options.untagged:
        raise UserError(f"--rows: {row} is 2d without --untagged, which is not given")
    run = options.out / f"{row}-seed{seed}"
    return Trial(row, seed, run, script("train.py", row_options(options, row, run, seed)),
                 evaluations(options, row, run))


def row_options(options: Namespace, row: str, run: Path, seed: int) -> dict:
    """Return the options of train.py for a row; all rows have the same kimg after the RGB network.
    """
    start = options.out / START if options.rgb else options.out / "start"
    preset = PRESETS[options.preset]
    chosen = {"variant": None, **preset.train, **_where(options), "untagged": options.untagged,
              "init_from": start, "run": run, "seed": seed, **ROWS[row],
              **(preset.ada if "augment" in ROWS[row] else {})}
    binary_kimg, _ = _stage_lengths(options.preset)
    if row == "rgb":
        colours = {name: value for name, value in chosen.items() if name not in OF_MAPS}
        return {**colours, "rgb_kimg": f"{options.kimg:g}"}
    if options.kimg <= binary_kimg:
        raise UserError(f"--kimg={options.kimg:g}: {binary_kimg:g} of them are the binary stage; "
                        "give more")
    return {**chosen, "classes_kimg": f"{options.kimg - binary_kimg:g}"}


def _where(options):
    return {"data": options.data, "device": options.device, "gpus": options.gpus}


def evaluations(options: Namespace, row: str, run: Path) -> list[list[str]]:
    """Return the commands that measure a row's best snapshot, or its last if none was selected."""
    preset = PRESETS[options.preset]
    reals, n = options.reals or options.data, preset.fakes
    commands = [script("run_metrics.py", {
        "network": run, "metrics": f"kid{n},fid{n},is{n}", "reals": reals,
        "split": preset.split if is_dataset(reals) else None, "floor": True,
        "inception": options.inception})]
    if row != "rgb":
        commands.append(script("run_metrics.py", {
            "network": run, "metrics": f"maps{n},classes{n}", "data": options.data,
            "split": "train", "floor": True}))
    return commands


def copy_network(rgb: str, out: Path) -> None:
    """Copy the RGB network to --out, once, because a run that continues may get another best
    snapshot. Raise UserError if it is of another stage."""
    from training.snapshots import find_snapshot, read_header

    if (out / START).is_file():
        return
    path = find_snapshot(rgb)
    stage = read_header(path).get("stage")
    if stage != "rgb":
        raise UserError(f"--rgb={rgb}: {path} is of stage {stage}; rows begin from one of stage "
                        "rgb")
    with util.atomic_path(out / START) as temporary:
        shutil.copyfile(path, temporary)
    print(f"rows begin from {path}, copied to {out / START}")


# The table

def write_tables(options: Namespace) -> Path:
    """Write table1.md, table1.json and table1.png of the finished trials; return the first path."""
    preset = PRESETS[options.preset]
    results, measures = STUDY.results(options, make_trial), preset.measures()
    table = summarize(results, measures)
    sentences = differences(table, BASE, measures)
    if results:
        write_bars(options.out / "table1.png", table, measures[:2],
                   f"{preset.fakes} images of each row against real photos")
    return STUDY.write(options, report_lines(options, results, table, sentences), results,
                       rows=table_to_json(table), differences=sentences, paper=PAPER)


def report_lines(options: Namespace, results: Sequence[dict], table: Table, sentences: Sequence[str]
                 ) -> list[str]:
    """Return the lines of table1.md: our table, differences, and the paper's table."""
    preset = PRESETS[options.preset]
    measures = preset.measures()
    floors = {name: value for result in results for name, value in result["floors"].items()}
    floor = ["floor: half of the photos against the other", "",
             *reference_cells(floors, measures), "", ""]
    start = options.rgb or "one trained for this table"
    paper = [[model, f"{score} ± {deviation}", f"{fid}"]
             for model, (score, deviation, fid) in PAPER.items()]
    return [
        "# Table 1, made anew", "",
        f"{preset.fakes} generated images at psi 1 against {options.reals or options.data} (KID, "
        f"FID, Inception Score) and the labelled photos of {options.data} (maps). All rows begin "
        f"from the same RGB network ({start}); kimg are those after it. {SPREAD}", "",
        results_table(results, table, measures, {
            "kimg": lambda own: f"{own[0]['kimg']:g}", "training": training_time}, [floor]), "",
        "Differences larger than those between two seeds of any row:", "",
        *(f"* {line}" for line in sentences), "",
        "The paper's table (ModaNet at 512x512, 50,000 images against the test split; no numbers "
        "to compare with ours unless that is what was trained):", "",
        markdown_table(["model", "IS", "FID"], paper), ""]


if __name__ == "__main__":
    cli.run_main(main)
