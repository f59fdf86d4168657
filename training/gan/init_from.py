"""How Style-GAN's networks begin: fresh, from a snapshot, or grown from the previous stage.

This is the only place that makes networks from the options of a training.
"""

import dataclasses
import re
from typing import Any

from dnnlib.tflib.network import Network, build, full_config
from dnnlib.util import UserError
from training.config import D_OPTIONS, G_OPTIONS, SHARED_OPTIONS, TrainingConfig
from training.gan.channel_growth import grow_critic, grow_generator
from training.gan.schedule import Stage, stage_channels, stage_critics, variant_stages
from training.method_config import as_option
from training.snapshots import Snapshot
from training.state import Progress, TrainingState, new_optimizers


def network_configs(config: TrainingConfig, num_channels: int = 3,
                    label_size: int = 0) -> dict[str, dict[str, Any]]:
    """Return {'G': keyword arguments of G_style, 'D': of D_basic}, without their seeds."""
    def options(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    shared = {"num_channels": num_channels, "label_size": label_size, **options(SHARED_OPTIONS)}
    # w is as long as z. Without a mapping network, w is the mapping network's input: z, followed
    # by the labels' embedding of the same length.
    passed_on = 2 * config.latent_size if label_size else config.latent_size
    G = {**options(G_OPTIONS), "mapping_nonlinearity": config.nonlinearity,
         "mapping_fmaps": config.latent_size,
         "dlatent_size": config.latent_size if config.mapping_layers else passed_on}
    return {"G": {**shared, **G}, "D": {**shared, **options(D_OPTIONS)}}


def new_state(config: TrainingConfig, num_channels: int = 3,
              label_size: int = 0) -> TrainingState:
    """Return fresh networks of the RGB stage, in the current strategy's scope."""
    configs = network_configs(config, num_channels, label_size)
    G = build("G_style", "G", {**configs["G"], "seed": config.seed})
    D = build("D_basic", "D_rgb", {**configs["D"], "seed": config.seed + 1})
    return _state({"G": G, "Gs": G.clone("Gs"), "D_rgb": D}, config.precision, Progress())


def state_from_snapshot(snapshot: Snapshot, config: TrainingConfig, classes: tuple[str, ...],
                        label_size: int = 0) -> TrainingState:
    """Return a state with the snapshot's networks, to continue from; raise as `check_start`."""
    needed = check_start(snapshot.header, config, classes, label_size)
    networks = {name: snapshot.networks[name] for name in needed}
    if networks["G"].resolution < config.resolution:
        networks = {name: grow_resolution(network, config.resolution)
                    for name, network in networks.items()}
    return _state(networks, config.precision,
                  Progress(first_stage=first_stage_after(snapshot.header, config),
                           stage=snapshot.header["stage"]))


def grow_resolution(old: Network, resolution: int) -> Network:
    """Return a network of a larger size with the coarse layers of `old`, which is not changed.

    The other layers are fresh, initialised with its seed, and unused until they fade in.
    """
    network = build(type(old).__name__, old.name, {**old.config, "resolution": resolution})
    # ToRGB and FromRGB are named by their distance from the largest size, which is now larger.
    steps = (resolution // old.resolution).bit_length() - 1
    renamed = {re.sub(r"(?<=_lod)\d+(?=/)", lambda lod: str(int(lod[0]) + steps), name): value
               for name, value in old.get_arrays().items()}
    network.set_arrays({**network.get_arrays(), **renamed}, source="growth")
    return network


def enter_stage(state: TrainingState, stage: Stage, config: TrainingConfig) -> TrainingState:
    """Return the state with the channels of G and of every critic grown for a stage.

    Optimizers are new; networks and optimizers of the old state are dropped.
    """
    old = state.networks
    networks = {name: grow_generator(old[name], stage.channels, config.grow_g)
                for name in ("G", "Gs")}
    for critic in stage.critics:
        grown = grow_critic(old[f"D_{critic.grows_from}"], critic.channels, config.grow_d)
        networks[f"D_{critic.name}"] = grown.clone(f"D_{critic.name}")
    return _state(networks, config.precision,
                  dataclasses.replace(state.progress, stage=stage.name))


def _state(networks, precision, progress):
    """Return a TrainingState with a fresh optimizer for every network except the average."""
    trained = {name: network for name, network in networks.items() if name != "Gs"}
    return TrainingState(networks, new_optimizers(trained, precision), progress)


def first_stage_after(header: dict[str, Any], config: TrainingConfig) -> str:
    """Return the stage that a training from a snapshot begins with: the snapshot's next stage, or
    its own if that is the last one.

    Raises:
        UserError: the snapshot cannot start this variant.
    """
    stage, stages = header.get("stage"), variant_stages(config.variant)
    if stage not in stages:
        raise UserError(f"--init-from: a snapshot of stage {stage!r} cannot start "
                        f"--variant={config.variant}")
    full, lod = header["networks"]["G"]["config"]["resolution"], header["lod"]
    # In an official pickle the lod of Gs may lag behind that of G, where training continues.
    if header.get("official_lod", {}).get("G", lod["fade"] or lod["resolution"] < full):
        raise UserError("--init-from: this snapshot still grows in resolution; take a later one of "
                        "its run")
    if config.initial_resolution != full:
        raise UserError(f"--initial-resolution={config.initial_resolution}: training goes on at "
                        f"the size of the snapshot's networks, {full}; leave it out")
    first = stages[min(stages.index(stage) + 1, len(stages) - 1)]
    if first != stage and full != config.resolution:
        grow_first = ", or grow them with --variant=rgb first" if stage == "rgb" else ""
        raise UserError(f"--resolution={config.resolution}: stage {first} begins at the size of "
                        f"the snapshot's networks, {full}x{full}; leave it out{grow_first}")
    return first


def take_network_options(header: dict[str, Any], config: TrainingConfig,
                         given: dict[str, Any]) -> tuple[TrainingConfig, dict[str, Any]]:
    """Return the config with a snapshot's network options wherever the user has given none, and
    {option: value} of what this changed."""
    made = header["networks"]
    critic = next((name for name in made if name.startswith("D_")), None)
    stored = {}
    for name, options in (("G", SHARED_OPTIONS + G_OPTIONS), (critic, D_OPTIONS)):
        if name is not None:
            network = full_config(made[name]["type"], made[name]["config"])
            stored |= {option: network[option] for option in options}
    stored["initial_resolution"] = stored["resolution"]  # from which networks may grow
    taken = {option: value for option, value in stored.items()
             if option not in given and getattr(config, option) != value}
    return dataclasses.replace(config, **taken), taken


def check_start(header: dict[str, Any], config: TrainingConfig, classes: tuple[str, ...],
                label_size: int = 0) -> set[str]:
    """Return the names of the networks that a training takes over from a snapshot.

    Raises:
        UserError: a snapshot with this header cannot start this training.
    """
    stage, first = header["stage"], first_stage_after(header, config)
    if stage == "classes" and header["classes"] != list(classes):
        raise UserError(f"--init-from: its classes are {', '.join(header['classes'])}, this data "
                        f"set's {', '.join(classes)}")
    critics = stage_critics(config.variant, first, len(classes))
    needed = {"G", "Gs", *(f"D_{c.name if first == stage else c.grows_from}" for c in critics)}
    made = header["networks"]
    if not needed <= set(made):
        raise UserError(f"--init-from: --variant={config.variant} needs "
                        f"{', '.join(sorted(needed))} to go on from stage {stage}; "
                        f"this snapshot holds {', '.join(sorted(made))}")
    # The networks must equal those that this training would make, apart from what grows: either
    # the channels or the size.
    wanted = network_configs(config, label_size=label_size)
    stored = {name: full_config(made[name]["type"], made[name]["config"]) for name in needed}
    grows = first == stage and stored["G"]["resolution"] < config.resolution
    for name in sorted(needed):
        options = wanted["D" if name.startswith("D_") else "G"]
        _check_same(name, stored[name], {key: value for key, value in options.items()
                                         if not (grows and key == "resolution")})
    channels, expected = stored["G"]["num_channels"], stage_channels(stage, len(classes))
    if channels != expected:
        raise UserError(f"--init-from: it draws {channels} channels, this data set has {expected} "
                        f"in stage {stage}")
    return needed


def _check_same(name, stored, wanted):
    """Raise UserError, naming the option to give, unless a network has the options wanted here."""
    for key, value in wanted.items():
        if key == "num_channels" or stored[key] == value:
            continue
        remedy = "this program cannot train such a network"
        if key == "label_size":
            remedy = "take a data set with labels of that size"
        elif hasattr(TrainingConfig, key):
            remedy = f"give {as_option(key, stored[key])}"
        raise UserError(f"--init-from: {key} of its {name} is {stored[key]}, of this training "
                        f"{value}; {remedy}")
