"""From leather to denim and back: six blocks or nine, one paper's settings or the other's, masks.

"Clothing texture synthesis using CycleGAN" found that nine blocks beat six (objective 2.86 against
3.22). Every tenth photo is held back, and all rows are measured on these.

    python -m experiments.leather_denim --leather=trainA --denim=trainB --out=results/leather
    python -m experiments.leather_denim --leather=trainA --denim=trainB --segmenter=4 \\
        --garment=outer,pants,skirt

Row zhu-9 has the settings of train.py's preset `zhu` and nine blocks, clothing-6 those of
`leather-denim` and six. These are complete recipes: they differ in norm, minibatch, learning rate,
rotations, clipping, and in whether critics score patches or pictures. So a difference between them
cannot be attributed to one of these, and their objectives, squares of critics' scores, are not
comparable. Nor are the numbers of steps: in the same kimg, `leather-denim` takes a tenth of them.

With --segmenter, the photos get label maps first; rows that end in -garment then translate only
--garment. These are measured on garments in front of grey, the others on whole photos: the two
kinds are comparable only in what they change around the garment.

Preset `night` (the default): 64x64, a quarter of the feature maps, 8 kimg (15 passes) per row, that
is 8,000 steps of zhu and 800 of clothing, for two CPU cores with AVX2 in at most six hours (an
estimate from steps under load), the most valuable answers first. Preset `gpu`: 256x256 (or
--resolution=128), all feature maps, 103 kimg: Zhu et al.'s 200 passes; not run by us. Expected of
`night`: hints, no convincing photos; translated photos nearer to the target than untranslated ones.
leather_denim.md, .json and .png grow with every row; the same command continues.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from dnnlib import cli, util
from dnnlib.charts import Chart, curves
from dnnlib.data.photo_names import IMAGE_SUFFIXES
from dnnlib.suggestions import did_you_mean
from dnnlib.util import UserError, format_time
from experiments.command import Preset, Study, plan_of
from experiments.study import Trial, script
from experiments.tables import (
    SPREAD,
    Measure,
    Table,
    differences,
    results_table,
    summarize,
    table_to_json,
)
from metrics.metric_base import CYCLE_METRICS
from training.cycle.config import CycleConfig
from training.run.history import read_history

SETTINGS = {"zhu": "zhu", "clothing": "leather-denim"}  # rows begin with it: preset of train.py
BLOCKS = ("9", "6")
GARMENT = "-garment"
WHOLE = tuple(f"{settings}-{blocks}" for settings in SETTINGS for blocks in BLOCKS)
ROWS = (*WHOLE, *(row + GARMENT for row in WHOLE))
HELD_BACK = 10  # one photo in so many
LISTS = ("leather", "denim")
EXAMPLES = """\
  python -m experiments.leather_denim --leather=trainA --denim=trainB --out=results/leather
  python -m experiments.leather_denim --leather=trainA --denim=trainB --rows=zhu-9,zhu-6 --seeds=1
  python -m experiments.leather_denim --out=results/leather --table-only
"""
_PLAN = (*plan_of("zhu-9 zhu-6 clothing-9 clothing-6 zhu-9-garment", 1, 2),
         *plan_of("clothing-9-garment", 1))
PRESETS = {
    # A picture of 64x64 is smaller than a patch of 70x70: all critics get 34x34.
    "night": Preset(_PLAN, dict(resolution=64, device="cpu", kimg=8.0),
                    dict(fmaps=16, strides=2, tick_kimg=0.25, image_ticks=8, network_ticks=20)),
    "gpu": Preset(_PLAN, dict(resolution=256, kimg=103.0), dict(tick_kimg=2.0)),
    # Seconds at 16x16, for the tests.
    "tiny": Preset(plan_of("zhu-6 clothing-6", 1), dict(resolution=16, device="cpu", kimg=0.04),
                   dict(fmaps=4, strides=1, pool=4, tick_kimg=0.02, network_ticks=1)),
}
STUDY = Study(
    "leather_denim", PRESETS, ROWS,
    fixed=("preset", *LISTS, "num_photos", "resolution", "segmenter", "garment", "kimg"),
    of_machine=("device", "gpus", "inception"), needs=LISTS, own={
        **{name: dict(metavar="DIR", help=f"folder of photos of {name}") for name in LISTS},
        "resolution": dict(type=cli.positive_int, metavar="N", help="side of the photos (default: "
                           "the preset's)"),
        "segmenter": dict(metavar="SPEC", help="segmentation network that makes the photos' label "
                          "maps: snapshot, run directory or run number"),
        "garment": dict(metavar="CLASSES", help="its classes that are translated, for both lists"),
        "inception": dict(metavar="PATH", help="as for run_metrics.py")})
PICTURE_MEASURES = [
    Measure("KID x 1000, to denim", "cyclekid_AtoB", "lower", 1000),
    Measure("KID x 1000, to leather", "cyclekid_BtoA", "lower", 1000),
    Measure("FID, to denim", "cyclefid_AtoB", "lower"),
    Measure("FID, to leather", "cyclefid_BtoA", "lower"),
    Measure("taken for denim (%)", "cycleclass_AtoB", "higher", 100),
    Measure("taken for leather (%)", "cycleclass_BtoA", "higher", 100),
    Measure("cycle L1, leather", "cycleloss_cycle_AtoB", "lower", form="{:.3f}"),
    Measure("cycle L1, denim", "cycleloss_cycle_BtoA", "lower", form="{:.3f}"),
    Measure("identity L1, leather", "cycleloss_identity_AtoB", "lower", form="{:.3f}"),
    Measure("identity L1, denim", "cycleloss_identity_BtoA", "lower", form="{:.3f}")]
BACKGROUND = [
    Measure("around the garment L1, to denim", "cycleloss_background_AtoB", "lower",
            form="{:.3f}"),
    Measure("around the garment L1, to leather", "cycleloss_background_BtoA", "lower",
            form="{:.3f}")]
OF_PICTURES = [*PICTURE_MEASURES, *BACKGROUND]  # comparable between settings
ALL_MEASURES = [Measure("objective", "cycleloss", "lower", form="{:.2f}"), *OF_PICTURES]
# (row, other row, the measures that are comparable between them): all within one paper's settings,
# none of critics' scores between two papers', and between whole photos and garments only what
# changes around the garment.
COMPARISONS = [
    *((f"{settings}-6{end}", f"{settings}-9{end}", ALL_MEASURES) for settings in SETTINGS
      for end in ("", GARMENT)),
    *((f"zhu-{blocks}{end}", f"clothing-{blocks}{end}", OF_PICTURES) for blocks in BLOCKS
      for end in ("", GARMENT)),
    *((row, row + GARMENT, BACKGROUND) for row in WHOLE)]
# Values of a measure without translation, or at best, for all rows of one kind of photos: (title,
# 'values' or 'floors' of a result, the value's name there, start, factor); start + factor x value
# is printed.
LEVELS = [
    ("KID x 1000 of untranslated photos", "values", "cyclekid_untranslated", 0, 1000),
    ("KID floor x 1000, to denim", "floors", "cyclekid_AtoB", 0, 1000),
    ("KID floor x 1000, to leather", "floors", "cyclekid_BtoA", 0, 1000),
    ("FID of untranslated photos", "values", "cyclefid_untranslated", 0, 1),
    ("FID floor, to denim", "floors", "cyclefid_AtoB", 0, 1),
    ("FID floor, to leather", "floors", "cyclefid_BtoA", 0, 1),
    ("untranslated leather taken for denim (%)", "values", "cycleclass_real_A", 100, -100),
    ("real denim taken for denim (%)", "values", "cycleclass_real_B", 0, 100),
    ("untranslated denim taken for leather (%)", "values", "cycleclass_real_B", 100, -100),
    ("real leather taken for leather (%)", "values", "cycleclass_real_A", 0, 100)]


def main(argv: list[str]) -> int:
    """Train and measure what is not finished yet, and write the table. Return the exit status."""
    options = STUDY.begin(argv, __doc__, EXAMPLES)
    options.num_photos = options.num_photos or {  # counted once
        name: count_photos(options, name) for name in LISTS}
    without_maps = () if options.segmenter else [row for row in ROWS if row.endswith(GARMENT)]
    if not options.table_only:
        check_garment(options, without_maps)
    return STUDY.run(options, make_trial, write_tables, left_out=without_maps)


def check_garment(options: Namespace, without_maps: Sequence[str]) -> None:
    """Raise UserError if garments are to be found in the photos, but cannot be."""
    if bool(options.segmenter) != bool(options.garment):
        raise UserError("--segmenter and --garment: the one finds the other's classes in the "
                        "photos; give both, or neither")
    if set(without_maps) & set(options.rows or ()):
        raise UserError(f"--rows={','.join(options.rows)}: rows that end in {GARMENT} need "
                        "--segmenter and --garment")
    if not options.segmenter:
        return
    from training.segmentation.labeller import read_labeller  # with TensorFlow

    network = read_labeller(options.segmenter)
    for name in options.garment.split(","):
        if name not in network.classes:
            raise UserError(f"--garment={options.garment}: {network.path} has no class {name!r}; "
                            f"it has {', '.join(network.classes)}"
                            + did_you_mean(name, network.classes))


def count_photos(options: Namespace, name: str) -> int:
    """Return how many photos a list has; raise UserError if there are too few to hold some back."""
    folder = Path(getattr(options, name))
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    count = sum(file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "." and file.is_file()
                for file in files)
    if count < 2 * HELD_BACK:
        raise UserError(f"--{name}={folder}: {count} photos; {2 * HELD_BACK} at least, of which "
                        "each tenth is held back")
    return count


def make_trial(options: Namespace, row: str, seed: int) -> Trial:
    """Return the Trial of a row with a seed."""
    settings, blocks, *garment = row.split("-")
    run, preset = options.out / f"{row}-seed{seed}", PRESETS[options.preset]
    preparations, data = dataset_commands(options)
    training = {"variant": "cyclegan", "preset": SETTINGS[settings], **preset.train,
                "blocks": blocks, "data": data["leather"], "target": data["denim"],
                "garment": options.garment if garment else None,
                "resolution": options.resolution, "device": options.device, "gpus": options.gpus,
                "kimg": f"{options.kimg:g}", "seed": seed, "run": run}
    measures = script("run_metrics.py", {"network": run, "metrics": CYCLE_METRICS,
                                         "garment": None if garment else options.garment,
                                         "inception": options.inception})
    return Trial(row, seed, run, script("train.py", training), [measures], preparations)


def dataset_commands(options: Namespace) -> tuple[list[list[str]], dict[str, Path]]:
    """Return (the commands that make data sets of both lists, with maps if there is a segmentation
    network; {list: its data set})."""
    commands, data = [], {}
    for name in LISTS:
        photos = getattr(options, name)
        data[name] = options.out / "data" / name
        common = {"out": data[name], "resolution": options.resolution, "num_val": 0,
                  "num_test": options.num_photos[name] // HELD_BACK}
        if options.segmenter:
            maps = options.out / "data" / f"{name}-maps"
            commands += [
                script("generate.py", {"network": options.segmenter, "source": photos,
                                       "out": maps}),
                script("dataset_tool.py", {"images": photos, "masks": maps / "labels",
                                           "classes": maps / "classes.txt", **common},
                       "create_from_masks")]
        else:
            commands.append(script("dataset_tool.py", {"source": photos, **common},
                                   "create_from_images"))
    return commands, data


def write_tables(options: Namespace) -> Path:
    """Write leather_denim.md, .json and .png of the finished trials; return the first path."""
    results = STUDY.results(options, make_trial)
    table = summarize(results, ALL_MEASURES)
    sentences = list(dict.fromkeys(
        line for base, row, measures in COMPARISONS if base in table and row in table
        for line in differences({name: table[name] for name in (base, row)}, base, measures)))
    if results:
        util.atomic_write(options.out / "leather_denim.png", curves(term_charts(results)))
    return STUDY.write(options, report_lines(options, results, table, sentences), results,
                       rows=table_to_json(table), differences=sentences)


def term_charts(results: Sequence[dict]) -> list[Chart]:
    """Return Charts of the objective, as in the paper's figure 5, and of its parts (figures 6, 7),
    over the training of every row; if it has several seeds, of the first."""
    weight = CycleConfig.__dataclass_fields__["cycle_weight"].default
    parts = {  # critics' losses are halved in training, but not in the paper
        "objective": {"G/AB": 1, "G/BA": 1, "D/A": 2, "D/B": 2, "cycle/A": weight,
                      "cycle/B": weight},
        "cycle": {"cycle/A": 1, "cycle/B": 1}, "generators": {"G/AB": 1, "G/BA": 1},
        "critics": {"D/A": 2, "D/B": 2}}
    histories = {}
    for result in results:
        histories.setdefault(result["row"], read_history(Path(result["run"])).ticks)
    return [Chart(title, "kimg", {row: (
        [tick["Progress/kimg"] for tick in ticks],
        [sum(factor * tick[f"Loss/{name}"] for name, factor in terms.items()) for tick in ticks])
        for row, ticks in histories.items()}) for title, terms in parts.items()]


def report_lines(options: Namespace, results: Sequence[dict], table: Table, sentences: Sequence[str]
                 ) -> list[str]:
    """Return the lines of leather_denim.md: tables, differences, curves, grids."""
    seconds = sum(result["training_sec"] for result in results)
    return [
        "# From leather to denim and back", "",
        f"Photos of {options.leather} and {options.denim} at {options.resolution}x"
        f"{options.resolution}, one of {HELD_BACK} held back, and measured on; {options.kimg:g} "
        f"kimg a row, {format_time(seconds)} of training. {SPREAD}", "",
        "Objectives, and the critics' part of the curves, compare between six blocks and nine, not "
        "between zhu and clothing, whose critics score patches and whole pictures.", "",
        *table_lines("Whole photos", results, {row: cells for row, cells in table.items()
                                               if not row.endswith(GARMENT)}),
        *table_lines("Garments", results, {row: cells for row, cells in table.items()
                                           if row.endswith(GARMENT)}),
        "## Differences", "", "Those larger than between two seeds of either row:", "",
        *(f"* {line}" for line in sentences), "",
        "![losses](leather_denim.png)", "",
        *(line for result in results for line in grid_lines(options, result))]


def table_lines(title: str, results: Sequence[dict], table: Table) -> list[str]:
    """Return a section with the table of the rows of one kind of photos, and its levels; nothing if
    there are no rows."""
    if not table:
        return []
    shown = [measure for measure in ALL_MEASURES
             if any(measure.title in cells for cells in table.values())]
    # Take the values without translation, and at best, from the first result.
    found = next(result for result in results if result["row"] in table)
    levels = [f"{title} {start + factor * found[place][name]:.1f}"
              for title, place, name, start, factor in LEVELS if name in found[place]]
    return [f"## {title}", "", results_table(results, table, shown, {"steps": steps_text}), "",
            f"Lines to beat, and ceilings: {'; '.join(levels)}.", ""]


def steps_text(own: Sequence[dict]) -> str:
    """Return how many steps the trainings of a row have, from its results."""
    preset = CycleConfig.presets[SETTINGS[own[0]["row"].partition("-")[0]]]
    return f"{round(own[0]['kimg'] * 1000 / CycleConfig(**preset).minibatch):,}"


def grid_lines(options: Namespace, result: dict) -> list[str]:
    """Return the lines that show a training's newest grid: photo, translated, back again."""
    grids = sorted(Path(result["run"]).glob("fakes*.png"))
    if not grids:
        return []
    return [f"`{result['row']}`, seed {result['seed']}: photo, translated, back again; leather "
            "above, denim below", "", f"![grid]({grids[-1].relative_to(options.out)})", ""]


if __name__ == "__main__":
    cli.run_main(main)
