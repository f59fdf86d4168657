"""From a command line to a run: its options, its directory, and what the workers compare."""

import argparse
import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from dnnlib import util
from dnnlib.data.dataset import DatasetInfo, open_dataset
from dnnlib.data.mirroring import mirroring_lines
from dnnlib.suggestions import command, few_validation, suggested_preset
from dnnlib.tflib.distribute import (
    all_gather,
    create_strategy,
    has_other_workers,
    is_chief,
    report_losses,
)
from dnnlib.util import UserError
from training.config import DEFAULT_PRESET, TrainingConfig, as_option, preset_config
from training.run.config_checks import fitting_command
from training.run.directory import LAUNCH, adopt_options, find_run, make_run, named_run
from training.run.directory import stored_options as options_of
from training.run.plan import describe_plan
from training.run.rehearsal import expected_times
from training.state import list_states

FID_REALS = 2048  # the features of a photo: with fewer reals FID is far from what it estimates
DEFAULTS = {"device": "gpu", "gpus": 1, "keep": 2, "inception": None}


def choose_config(options: argparse.Namespace, given: dict[str, Any]) -> TrainingConfig:
    """Return the config of a command, and complete its options.

    A run that --run names goes on with its own options, so far as the command gives none; a preset
    is an option for all that makes a training.

    Args:
        options: of train.py. `run` becomes a path, `preset`, `init_from` and those of LAUNCH get
            the values that hold; `continues` is added: whether the options are those of a run.
        given: {field of TrainingConfig: value} of those that the user has given.

    Raises:
        UserError: --run alone names no run, or the run's data set is not where it was.
    """
    options.run = named_run(options.run, options.results)
    stored = options_of(options.run)
    if options.run and stored is None and not given and options.preset is None:
        raise UserError(f"--run={options.run}: no run there to continue; give a new one the "
                        "options of its training too, such as --variant or --data")
    options.continues = stored is not None and options.preset is None
    for name in LAUNCH:
        if getattr(options, name) is None:
            value = stored.get(name) if options.continues else None
            setattr(options, name, DEFAULTS[name] if value is None else value)
    if not options.continues:
        options.preset = options.preset or DEFAULT_PRESET
        return preset_config(options.preset, given)
    options.init_from = options.init_from or stored.get("init_from")
    if "data" not in given and not Path(stored["data"]).is_dir():
        raise UserError(f"{options.run}: its data set {stored['data']} is not there, as seen from "
                        "this directory; give its path of today with --data")
    fields = {f.name for f in dataclasses.fields(TrainingConfig)}
    return TrainingConfig.from_json(
        {name: value for name, value in stored.items() if name in fields} | given)


def run_record(config: TrainingConfig, dataset: DatasetInfo,
               options: argparse.Namespace) -> dict[str, Any]:
    """Return what is stored as a run's options, by which the same command finds it again."""
    return {**config.to_json(), "init_from": options.init_from, "data_digest": dataset.digest,
            **{name: getattr(options, name) for name in LAUNCH}}


def worker_facts(config: TrainingConfig, dataset: DatasetInfo, options: argparse.Namespace,
                 header: dict[str, Any] | None) -> dict[str, Any]:
    """Return what must be equal in all workers; paths may differ between machines.

    Args:
        header: of the snapshot to begin with.
    """
    facts = {name: value for name, value in config.to_json().items()
             if name not in ("data", "untagged")}
    untagged = open_dataset(config.untagged).digest if config.untagged else None
    return {**facts, "gpus": options.gpus, "device": options.device, "tensorflow": tf.__version__,
            "data's digest": dataset.digest, "untagged's digest": untagged,
            "images": dataset.splits, "init_from's digest": header and header["digest"]}


def print_plan(config: TrainingConfig, dataset: DatasetInfo, first_stage: str, num_replicas: int,
               options: argparse.Namespace, notes: list[str]) -> None:
    """Print what the command would do: the run, notes, the plan, and with --measure its time."""
    record = run_record(config, dataset, options)
    run_dir = find_run(options.run, options.results, record, options.override)
    if run_dir is None:
        print(f"would make a new run: {options.run or f'the next number in {options.results}'}")
    else:
        states = list_states(run_dir)
        print(f"would continue {run_dir}, from {states[-1].name if states else 'its beginning'}")
    times = ()
    if options.measure:
        strategy = create_strategy(options.device, options.gpus)
        times = expected_times(config, len(dataset.classes), first_stage, strategy)
    print(*notes, describe_plan(config, dataset, first_stage, num_replicas, options.keep, *times),
          sep="\n")


@contextlib.contextmanager
def open_run(strategy: tf.distribute.Strategy, config: TrainingConfig, dataset: DatasetInfo,
             options: argparse.Namespace) -> Iterator[tuple[Path, logging.Logger]]:
    """Make or continue a run, and hold its directory: (path, log).

    The first worker alone finds it, holds it and writes its log; the others see the same one.

    Raises:
        UserError: it is in use, was started with other options, or cannot be seen by a worker.
    """
    record, run_dir = run_record(config, dataset, options), None
    with contextlib.ExitStack() as stack:
        if is_chief(strategy):
            run_dir = find_run(options.run, options.results, record, options.override)
            if run_dir is None:
                description = f"{config.variant}-{dataset.name}-{config.resolution}"
                run_dir = make_run(options.run, options.results, description, record)
            stack.enter_context(util.only_process(run_dir, "training in it"))
        if has_other_workers(strategy):
            run_dir = _visible(all_gather(strategy, str(run_dir and run_dir.resolve()))[0])
        log = util.start_log("training", run_dir / "log.txt" if is_chief(strategy) else None)
        report_losses(strategy, log.info)
        log.info(f"run directory {run_dir}")
        try:
            if options.override and is_chief(strategy):
                adopt_options(run_dir, record, log)
            yield run_dir, log
        except Exception as error:  # run_main prints it on the terminal
            util.log_to_file(log, f"error: {util.one_line(error)}")
            raise


def _visible(path, timeout_sec=60):
    """Return the directory that the first worker has just made, which a shared file system may
    show late."""
    deadline = time.monotonic() + timeout_sec
    while not Path(path).is_dir():
        if time.monotonic() > deadline:
            raise UserError(f"{path}: the run directory of worker 0 is not visible on this "
                            "machine; all workers must see the same one (a shared file system): "
                            "give --run or --results there")
        time.sleep(0.2)
    return Path(path)


def fitting_metrics(names: str, dataset: DatasetInfo) -> str:
    """Return the metrics of a preset, or others if the validation split is too small for them.

    The others are KID of as many fakes against the training and validation images together.
    """
    if names == "none" or not few_validation(dataset.splits.get("val", 0)):
        return names
    return "kid{}_trainval".format(re.match(r"[a-z]+(\d+k?)", names)[1])


def start_notes(config: TrainingConfig, dataset: DatasetInfo, options: argparse.Namespace,
                taken: dict[str, Any], needs_validation: bool) -> list[str]:
    """Return lines for the log and for --dry-run that a training begins with.

    Args:
        taken: {option: value} that come from the snapshot of --init-from.
        needs_validation: whether one of its metrics compares with the validation split alone.
    """
    lines, photos, val = [], dataset.splits["train"], dataset.splits.get("val", 0)
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
    few = few_validation(val)
    if few and needs_validation:
        lines.append(f"warning: {few}, and --metrics={config.metrics} compares with them; "
                     f"{fitting_metrics(config.metrics, dataset)} takes the training images too")
    elif few and config.metrics != "none":
        lines.append(f"warning: {few}; {config.metrics} selects it instead, which compares with "
                     f"all {photos + val:,} training and validation images")
    return lines


def next_commands(run_dir: Path, config: TrainingConfig, dataset: DatasetInfo) -> str:
    """Return commands that make pictures and pairs with a trained network, and a metric of it that
    fits the test split."""
    network = f"--network={run_dir}"
    label = ["--label=0"] if dataset.label_size else []
    test, metric = dataset.splits.get("test", 0), "fid50k"
    if test < FID_REALS:
        metric = "kid1k_trainval" if few_validation(test) else "kid1k"
    commands = [command("generate.py", network, "--seeds=0-35", *label)]
    if config.variant != "rgb":
        commands.append(command("generate.py", network, f"--num={dataset.splits['train']}", *label))
    return "; ".join([*commands, command("run_metrics.py", network, f"--metrics={metric}")])
