"""The command line of train.py: where and how to run, and the method's own options."""

import argparse
import dataclasses
from typing import Any

from dnnlib import cli
from training.method_config import MAX_COUNT, as_text
from training.variants import CONFIGS, DEFAULT_VARIANT


def parse_training_options(argv: list[str], description: str = "",
                           examples: str = "") -> argparse.Namespace:
    """Return the options of train.py; those that are not given are None.

    `config_class` is added: the MethodConfig that has these options. It is chosen by --variant, or
    else by the run that --run names.
    """
    variant = _variant(argv)
    config_class = CONFIGS.get(variant, CONFIGS[DEFAULT_VARIANT])
    parser = cli.argument_parser(description, examples)
    if variant in CONFIGS:
        parser.help_options = f"--variant={variant} "
    parser.add_argument("--preset", choices=config_class.presets,
                        help=f"values to start from (default: {config_class.default_preset})")
    parser.add_argument("--gpus", type=int, metavar="N",
                        help="number of devices to train on; with --workers, for each worker "
                        "(default: 1)")
    parser.add_argument("--workers", metavar="HOST:PORT,...",
                        help="train on several machines (or with several processes): the addresses "
                        "of all workers, the same list for each; or set TF_CONFIG in the "
                        "environment")
    parser.add_argument("--worker-index", type=int, metavar="N",
                        help="index of this process in --workers, from 0")
    parser.add_argument("--device", choices=("gpu", "cpu"),
                        help="type of these devices (default: gpu)")
    parser.add_argument("--results", default="results", metavar="DIR",
                        help="directory in which run directories are made")
    parser.add_argument("--run", metavar="DIR",
                        help="run directory to make or continue, or the number of a run; a run "
                        "that exists keeps its own options where none are given (default: continue "
                        "the newest unfinished run with the same options, else make a new one)")
    parser.add_argument("--override", action="store_true",
                        help="continue --run with these options although it was started with "
                        "others; options that define the networks and their growth cannot change")
    parser.add_argument("--keep", type=cli.positive_int, metavar="N",
                        help="number of training states to keep in the run directory (default: 2)")
    parser.add_argument("--init-from", metavar="SNAPSHOT",
                        help="snapshot, run directory or run number of an RGB (or later) stage "
                        "from which to begin the next stage, or on which to train a decoder")
    parser.add_argument("--inception", metavar="PATH",
                        help="Inception weights for the metrics (see run_metrics.py)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    parser.add_argument("--measure", action="store_true", help="with --dry-run: also time a few "
                        "steps on this machine, and print how long the training will take")
    shown = config_class.preset(config_class.default_preset, {})
    group = parser.add_argument_group(
        f"training options (with the defaults of --preset={config_class.default_preset})")
    for f in dataclasses.fields(config_class):
        _add_field(group, f, getattr(shown, f.name))
    options = parser.parse_args(argv)
    options.config_class = config_class
    if options.measure and not options.dry_run:
        parser.error("argument --measure: works only with --dry-run; a training shows its speed")
    return options


def _variant(argv):
    """Return the variant that a command line names, or that of its --run; None without either."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in (("variant", None), ("run", None), ("results", "results")):
        parser.add_argument(f"--{name}", default=default)
    try:
        options, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:  # the full parser gives a better message
        return None
    if options.variant or options.run is None:
        return options.variant
    # Imported here so that --help and wrong options get an answer at once.
    from training.run.directory import named_run, stored_options

    stored = stored_options(named_run(options.run, options.results)) or {}
    return stored.get("variant")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return {field: value} for the config's fields that the user has given."""
    fields = [f.name for f in dataclasses.fields(options.config_class)]
    return {name: getattr(options, name) for name in fields if getattr(options, name) is not None}


def _add_field(group, f, shown):
    """Add the option for one field; its help shows the default `shown`."""
    default = f.default_factory() if f.default is dataclasses.MISSING else f.default
    text = f.metadata["help"]
    if shown not in (None, {}, ""):
        text += f" (default: {as_text(shown)})"
    if isinstance(default, bool):
        extra = {"action": argparse.BooleanOptionalAction}
    else:
        kinds = {dict: parse_table, int: int, float: float, int | None: int, float | None: float}
        choices = tuple(CONFIGS) if f.name == "variant" else f.metadata.get("choices")
        extra = {"type": kinds.get(f.type if default is None else type(default), str),
                 "choices": choices,
                 "metavar": f.metadata.get("metavar") or (None if choices else "N")}
    flag = f.metadata.get("flag", f.name).replace("_", "-")
    group.add_argument(f"--{flag}", dest=f.name, default=None, help=text, **extra)


def parse_table(text: str) -> dict[int, float]:
    """Return {8: 128, 32: 64} for '8:128,32:64', {4: 64} for '64'; a type for argparse."""
    try:
        if ":" not in text:
            return {4: _number(text)}
        pairs = [part.split(":") for part in text.split(",")]
        table = {int(key): _number(value) for key, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected one number, or values by resolution such as 8:128,32:64") from None
    if len(table) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: a resolution is given twice")
    return table


def _number(text):
    """Return a whole number as int if its text has no decimal point and it is not too large to be
    a count; else a float."""
    value = float(text)
    is_count = value.is_integer() and abs(value) <= MAX_COUNT and "." not in text
    return int(value) if is_count else value
