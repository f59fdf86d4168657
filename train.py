#!/usr/bin/env python3
"""Train Style-GAN, Style-C-GAN or Style-C-GAN-2D."""

import argparse
import contextlib
import dataclasses
import os
import re
import time
from pathlib import Path

from dnnlib import util
from dnnlib.cluster import find_workers
from dnnlib.data.mirroring import mirroring_lines
from dnnlib.suggestions import command, few_validation, suggested_preset
from dnnlib.util import UserError
from training.config import (
    MAX_COUNT,
    PRESETS,
    TrainingConfig,
    as_option,
    by_resolution,
    preset_config,
)

EXAMPLES = """\
  python train.py --variant=2d --gpus=4
  python train.py --variant=rgb --preset=small-64 --data=datasets/mine --device=cpu
  python train.py --variant=2d --init-from=results/00000-rgb-modanet --untagged=datasets/more-photos
  python train.py --variant=2d --gpus=4 --workers=host0:2222,host1:2222 --worker-index=0
"""
DEFAULT_PRESET = "paper"
FID_REALS = 2048  # the features of a photo: with fewer reals FID is far from what it estimates


def main(argv):
    """Parse options, build a config, train."""
    options = parse_options(argv)
    overrides = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainingConfig)
                 if getattr(options, f.name) is not None}
    config = preset_config(options.preset, overrides)
    workers, index = find_workers(options.workers, options.worker_index,
                                  os.environ.get("TF_CONFIG"))
    if options.measure and workers:
        raise UserError("--measure: times the devices of one machine; leave it out with several "
                        "workers")

    # Imported here so that --help and wrong options answer at once.
    import tensorflow as tf

    from dnnlib.tflib.distribute import create_strategy, working_together
    from training.config_checks import check_idle, fit_to_dataset
    from training.dataset import open_dataset
    from training.run.plan import describe_plan, measured_rate
    from training.snapshots import find_snapshot, read_header
    from training.state import check_start, first_stage_after, with_networks_of

    # One trace for every critic and resolution is meant; TensorFlow takes them for an accident.
    tf.get_logger().setLevel("ERROR")
    check_inception(options.inception, metric_names(config))
    origin, header, first_stage, taken = None, None, "rgb", {}
    if options.init_from:
        origin = find_snapshot(options.init_from, options.results)
        header = read_header(origin)
        config, taken = with_networks_of(header, config, overrides)
        first_stage = first_stage_after(header, config)
    check_idle(overrides, config.variant, first_stage)
    dataset = open_dataset(config.data)
    num_replicas = options.gpus * len(workers or [0])
    if "metrics" not in overrides:
        config = dataclasses.replace(config, metrics=fitting_metrics(config.metrics, dataset))
    config = fit_to_dataset(config, dataset, num_replicas, first_stage, taken)
    if header:
        check_start(header, config, dataset.classes, dataset.label_size)
    notes = start_notes(config, dataset, options, taken)
    if options.dry_run:
        print(described_run(options, run_record(config, dataset, options)))
        print(*notes, sep="\n", end="\n" if notes else "")
        # First, since the devices must be set up before anything runs on one.
        seconds = measured_seconds(config, dataset, first_stage, options) if options.measure else 0
        print(describe_plan(config, dataset, first_stage, num_replicas,
                            measured_rate(options.device, config), options.keep))
        if options.measure:
            print(f"on this machine the training will take about {util.format_time(seconds)}, by "
                  "turns timed just now; pictures and metrics on the way come on top")
        return 0
    strategy = create_strategy(options.device, options.gpus, workers, index, worker_facts(
        config, dataset, options, header))
    with working_together(strategy):
        return train(config, dataset, strategy, options, origin, notes)


def parse_options(argv):
    """The command line: a preset, any field of TrainingConfig, and where to run."""
    parser = util.argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--preset", default=DEFAULT_PRESET, choices=PRESETS,
                        help="values to start from")
    parser.add_argument("--gpus", type=int, default=1, metavar="N",
                        help="devices to train on; with --workers, of each of them")
    parser.add_argument("--workers", metavar="HOST:PORT,...",
                        help="train with several machines (or processes): the addresses of all, "
                        "the same list for each; TF_CONFIG in the environment does as well")
    parser.add_argument("--worker-index", type=int, metavar="N",
                        help="which of --workers this process is, from 0")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"),
                        help="kind of these devices")
    parser.add_argument("--results", default="results", metavar="DIR",
                        help="where run directories are made")
    parser.add_argument("--run", metavar="DIR",
                        help="run directory to make or continue (default: continue the newest "
                        "unfinished run with the same options, else make a new one)")
    parser.add_argument("--override", action="store_true",
                        help="continue --run with these options although it was started with "
                        "others; what makes the networks and their growth cannot change")
    parser.add_argument("--keep", type=positive_int, default=2, metavar="N",
                        help="training states that stay in the run directory")
    parser.add_argument("--init-from", metavar="SNAPSHOT",
                        help="snapshot, run directory or run number of an RGB (or later) stage "
                        "to begin the next stage from")
    parser.add_argument("--inception", metavar="PATH",
                        help="Inception weights for the metrics (see run_metrics.py)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    parser.add_argument("--measure", action="store_true", help="with --dry-run: also time a few "
                        "turns on this machine, and say how long the training will take")
    group = parser.add_argument_group(
        "training options (defaults are the preset's; those shown are of `paper`)")
    for f in dataclasses.fields(TrainingConfig):
        add_field(group, f)
    options = parser.parse_args(argv)
    if options.measure and not options.dry_run:
        parser.error("argument --measure: goes with --dry-run only; a training shows its pace")
    return options


def add_field(group, f):
    """One option for a field of TrainingConfig; None when not given."""
    flag = "--" + f.name.replace("_", "-")
    default = f.default_factory() if f.default is dataclasses.MISSING else f.default
    shown = default
    if isinstance(default, dict):
        shown = ",".join(f"{k}:{v}" for k, v in default.items())
    text = f.metadata["help"] + ("" if default in (None, {}) else f" (default: {shown})")
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    kinds = {dict: parse_table, int: int, float: float}
    kind = int if f.type == (int | None) else kinds.get(type(default), str)
    group.add_argument(flag, type=kind, default=None, help=text, choices=f.metadata.get("choices"),
                       metavar=f.metadata.get("metavar")
                       or (None if "choices" in f.metadata else "N"))


def positive_int(text):
    """A number from 1 upwards, else argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 upwards")
    return int(text)


def parse_table(text):
    """'8:128,32:64' -> {8: 128, 32: 64}; '64' -> {4: 64}; else argparse.ArgumentTypeError."""
    try:
        if ":" not in text:
            return {4: _number(text)}
        pairs = [part.split(":") for part in text.split(",")]
        table = {int(key): _number(value) for key, value in pairs}
        if len(table) < len(pairs):
            raise argparse.ArgumentTypeError(f"{text!r}: a resolution is given twice")
        return table
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected one number, or values by resolution such as 8:128,32:64") from None


def _number(text):
    """Return a count as int, else a float: also of whole numbers that no count reaches."""
    value = float(text)
    is_count = value.is_integer() and abs(value) <= MAX_COUNT and "." not in text
    return int(value) if is_count else value


def worker_facts(config, dataset, options, header):
    """What must be equal in all workers: {name: JSON value}. Paths may differ between machines."""
    import tensorflow as tf

    from training.dataset import open_dataset

    facts = {name: value for name, value in config.to_json().items()
             if name not in ("data", "untagged")}
    untagged = open_dataset(config.untagged).digest if config.untagged else None
    return {**facts, "gpus": options.gpus, "device": options.device, "tensorflow": tf.__version__,
            "data's digest": dataset.digest, "untagged's digest": untagged,
            "images": dataset.splits, "init_from's digest": header and header["digest"]}


def run_record(config, dataset, options):
    """What is stored as a run's options, by which the same command finds it again."""
    return {**config.to_json(), "init_from": options.init_from, "data_digest": dataset.digest}


def described_run(options, record):
    """One line on the run that the command would make or continue; raises what that would."""
    from training.run.directory import find_run
    from training.snapshots import list_states

    run_dir = find_run(options.run, options.results, record, options.override)
    if run_dir is None:
        return f"would make a new run: {options.run or f'the next number in {options.results}'}"
    states = list_states(run_dir)
    return f"would continue {run_dir}, from {states[-1].name if states else 'its beginning'}"


def fitting_metrics(names, dataset):
    """The metrics of a preset, or, where the validation split is too small for them, KID of as
    many fakes against the training and validation images together."""
    if names == "none" or not few_validation(dataset.splits.get("val", 0)):
        return names
    return "kid{}_trainval".format(re.match(r"[a-z]+(\d+k?)", names)[1])


def start_notes(config, dataset, options, taken):
    """What is to be said before a training: lines for its log and for --dry-run.

    taken: {option: value} that come from the snapshot of --init-from.
    """
    from metrics.metric_base import SPLIT, reals_of
    from training.config_checks import fitting_command

    lines, photos = [], dataset.splits["train"]
    if taken:
        lines.append("from the snapshot of --init-from: "
                     + " ".join(as_option(name, value) for name, value in taken.items()))
    if options.preset == DEFAULT_PRESET != suggested_preset(photos, dataset.resolution) \
            and not options.init_from:
        lines.append(f"--preset={options.preset} is for more than {photos:,} training images of "
                     f"{dataset.resolution}x{dataset.resolution}; what fits them: "
                     f"{fitting_command(dataset)}")
    if config.variant != "rgb" and config.mirror:
        lines += mirroring_lines(config.mirror_pairs, dataset.classes)
    few, names = few_validation(dataset.splits.get("val", 0)), metric_names(config)
    if few and SPLIT in reals_of(names):
        lines.append(f"warning: {few}, and --metrics={config.metrics} compares with them; "
                     f"{fitting_metrics(config.metrics, dataset)} takes the training images too")
    elif few and names:
        images = photos + dataset.splits.get("val", 0)
        lines.append(f"warning: {few}; {config.metrics} selects it instead, which compares with "
                     f"all {images:,} training and validation images")
    return lines


def next_commands(run_dir, config, dataset):
    """What to do with a trained network: pictures, pairs, and a metric that the test split bears.
    """
    network = f"--network={run_dir}"
    label = ["--label=0"] if dataset.label_size else []
    test, metric = dataset.splits.get("test", 0), "fid50k"
    if test < FID_REALS:
        metric = "kid1k_trainval" if few_validation(test) else "kid1k"
    commands = [command("generate.py", network, "--seeds=0-35", *label)]
    if config.variant != "rgb":
        commands.append(command("generate.py", network, f"--num={dataset.splits['train']}", *label))
    return "; ".join([*commands, command("run_metrics.py", network, f"--metrics={metric}")])


def measured_seconds(config, dataset, first_stage, options):
    """Seconds that the training will take here, from turns timed now."""
    from dnnlib.tflib.distribute import create_strategy
    from training.run.rehearsal import expected_seconds

    strategy = create_strategy(options.device, options.gpus)
    return expected_seconds(config, len(dataset.classes), first_stage, strategy)


def train(config, dataset, strategy, options, origin, notes=()):
    """Make or continue a run, and train it to the end of its schedule. Returns the exit status.

    origin: the snapshot to begin from, or None. notes: lines that the log begins with.
    """
    import tensorflow as tf

    from dnnlib.tflib.distribute import everyones, is_chief
    from training.run.directory import find_run, make_run, take_over
    from training.run.signals import end_if_stuck
    from training.snapshots import list_states, load_snapshot
    from training.state import state_from_snapshot
    from training.training_loop import Training

    record = run_record(config, dataset, options)
    run_dir, has_state, first_state = None, False, None
    if is_chief(strategy):
        run_dir = find_run(options.run, options.results, record, options.override)
        has_state = bool(run_dir and list_states(run_dir))
    if origin and not everyones(strategy, has_state)[0]:
        with strategy.scope():
            first_state = state_from_snapshot(load_snapshot(origin), config, dataset.classes,
                                              dataset.label_size)
    if is_chief(strategy) and run_dir is None:
        description = f"{config.variant}-{dataset.name}-{config.resolution}"
        run_dir = make_run(options.run, options.results, description, record)
    with chiefs_run(strategy, run_dir) as (run_dir, log):
        if options.override and is_chief(strategy):
            take_over(run_dir, record, log)
        for line in notes:
            log.info(line)
        evaluate = make_evaluate(config, dataset, options, log) if is_chief(strategy) else None
        training = Training(config, run_dir, strategy, dataset, evaluate, first_state, log,
                            options.keep)
        del first_state  # or its networks would stay on the device after the growth
        try:
            finished = training.run()
        except tf.errors.ResourceExhaustedError:
            raise UserError("the device's memory is too small for this training; give a smaller "
                            "--minibatch, --resolution or --fmap-max, or more --gpus") from None
    if finished:
        log.info(f"finished. Next: {next_commands(run_dir, config, dataset)}")
        return 0
    status = 128 + training.stop_signal
    end_if_stuck(status)
    return status


@contextlib.contextmanager
def chiefs_run(strategy, run_dir):
    """(run directory, log), the directory being the chief's, who alone holds it and writes to it.

    run_dir: of the chief; not looked at in other workers. Raises UserError where it is in use, and
    in a worker that does not see it.
    """
    from dnnlib.tflib.distribute import everyones, is_chief, link_of

    link = link_of(strategy)
    with contextlib.ExitStack() as stack:
        if is_chief(strategy):
            stack.enter_context(util.only_process(run_dir, "training in it"))
        if link:
            run_dir = see_directory(everyones(strategy, str(run_dir and run_dir.resolve()))[0])
        log = util.start_log("training", run_dir / "log.txt" if is_chief(strategy) else None)
        if link:
            link.tell = log.info
        log.info(f"run directory {run_dir}")
        try:
            yield run_dir, log
        except Exception as error:  # on the terminal it is run_main that tells it
            util.log_to_file(log, f"error: {util.one_line(error)}")
            raise


def see_directory(path, timeout_sec=60):
    """The directory that the chief has just made, which a shared file system may show late."""
    deadline = time.monotonic() + timeout_sec
    while not Path(path).is_dir():
        if time.monotonic() > deadline:
            raise UserError(f"{path}: the run directory of worker 0 is not to be seen here; all "
                            "workers must see the same one (a shared file system): give --run or "
                            "--results there")
        time.sleep(0.2)
    return Path(path)


def metric_names(config):
    """The metrics asked for. Raises UserError for an unknown one, listing the known ones."""
    from metrics.metric_base import parse_metric

    names = [] if config.metrics == "none" else config.metrics.split(",")
    for name in names:
        if parse_metric(name)[0].uses not in ("features", "logits"):
            raise UserError(f"--metrics: {name} is not computed during training; ask "
                            "run_metrics.py for it")
    return names


def check_inception(path, names):
    """--inception names a file, and there are metrics (a list) to use it."""
    if path and not names:
        raise UserError("--inception: --metrics=none needs no Inception weights; leave one out")
    if path and not Path(path).is_file():
        raise UserError(f"--inception={path}: no such file; leave it out to have the weights found "
                        "or fetched")


def make_evaluate(config, dataset, options, log):
    """The function Snapshot -> {metric: value} on the validation split (_full: the training split,
    _trainval: both).

    None where there is to be none; where it cannot be made, one warning says why.
    """
    from metrics import inception
    from metrics.fakes import network_fakes
    from metrics.metric_base import SPLIT, evaluate, needs_logits, reals_of, unavailable
    from training.dataset import read_labels

    names = metric_names(config)
    if not dataset.splits.get("val"):
        lacking = [name for name in names if SPLIT in reals_of([name])]
        names = [name for name in names if name not in lacking]
        if lacking:
            log.info(f"warning: {dataset.path} has no validation split: no {', '.join(lacking)}"
                     + ("" if names else "; the newest snapshot counts as best"))
    if not names:
        return None
    try:
        detector = inception.load_detector(options.inception, needs_logits(names), report=log.info)
    except UserError as error:
        if options.inception:
            raise
        log.info("warning: no metrics during training, the newest snapshot counts as best: "
                 f"{util.one_line(error)}")
        return None
    skipped = unavailable(names, detector)
    for reason in skipped.values():
        log.info(f"warning: {reason}")
    names = [name for name in names if name not in skipped]
    reals = open_reals(names, dataset, config.resolution, detector, log)
    labels = read_labels(dataset.path, "train") if dataset.label_size else None
    told = set()

    def say_once(line):
        """The same warning at every snapshot would hide the rest of the log."""
        if line not in told:
            told.add(line)
            log.info(line)

    def run(snapshot):
        """{metric: value} of a Snapshot."""
        minibatch = by_resolution(config.minibatch, config.resolution)
        generate = network_fakes(snapshot.generator(), config.latent_size, config.resolution,
                                 minibatch, config.seed, labels)
        results = evaluate(names, generate, reals, detector, say_once)
        return {name: value for values in results.values() for name, value in values.items()}

    return run if names else None


def open_reals(names, dataset, resolution, detector, log):
    """Return {kind: FeatureSet} of the reals that metrics compare with during training."""
    from dnnlib.download import cache_dir
    from metrics.features import FeatureSet, source_features
    from metrics.image_sources import split_source
    from metrics.metric_base import FULL, SPLIT, TRAIN_VAL, reals_of
    from training.dataset import read_split

    splits = {SPLIT: "val", FULL: "train", TRAIN_VAL: TRAIN_VAL}
    return {kind: FeatureSet(source_features(
        split_source(dataset, splits[kind], resolution, read_split), detector, cache_dir(),
        log.info)) for kind in reals_of(names)}


if __name__ == "__main__":
    util.run_main(main)
