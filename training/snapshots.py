"""Files of a run: network snapshots, the training state and the best snapshot so far.

There is one container: a safetensors file with a JSON header and arrays named `<group>/<name>`. A
network snapshot has a group for G, Gs and every critic's D; the training state is the same with
groups `opt_<network>` and counters. The header carries a digest of every group, so that a damaged
file is found out. Pickles of the official release are read in the same form (official_pickle.py),
as data: nothing is ever unpickled.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import training.networks_stylegan  # noqa: F401 (registers the networks that snapshots name)
from dnnlib import util
from dnnlib.download import mistaken_for
from dnnlib.tflib.network import NETWORKS, build
from dnnlib.util import UserError, arrays_digest
from training import official_pickle

FORMAT_VERSION = 1
STATE_PATTERN = re.compile(r"training-state-(\d+)\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """Networks and what is known of them.

    `header`: classes, stage, kimg, lod {resolution, fade}, dataset {name, path, digest}, scores,
    digest (of Gs), ...
    """

    networks: dict
    header: dict
    path: Path | None = None

    @property
    def classes(self):
        """Class names of the channels after the colours; the binary stage has one, 'any'."""
        return tuple(self.header["classes"])

    def generator(self, truncation_psi=None):
        """A function (latents, labels, noise) -> images of Gs at its header's resolution and fade.

        labels: [N, label_size], None where the networks are not conditional.
        """
        Gs, lod = self.networks["Gs"], self.header["lod"]
        return lambda latents, labels, noise: Gs(
            latents, labels, resolution=lod["resolution"], fade=lod["fade"], noise=noise,
            truncation_psi=truncation_psi)


def save_container(path, header, groups):
    """Write {group: {name: float32 array}} and a JSON header, atomically."""
    arrays = {f"{group}/{name}": np.asarray(value, np.float32, order="C")
              for group, values in groups.items() for name, value in values.items()}
    header = {**header, "format_version": FORMAT_VERSION,
              "digests": {group: arrays_digest(values) for group, values in groups.items()}}
    text = json.dumps(header)
    metadata = {"header": text, "header_sha256": _sha256(text)}
    # As bytes, since the library's own files are readable by their owner alone.
    util.atomic_write(path, save(arrays, metadata=metadata))


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(path):
    """The header of a network snapshot or official pickle.

    Raises UserError where `path` is missing or not one.
    """
    if _is_official(path):
        return official_pickle.read(path)[0]
    return _check_kind(path, _open_container(path, lambda file, header: header))


def _check_kind(path, header):
    if header.get("kind") != "networks":
        raise UserError(f"{path}: a training state; a network snapshot is wanted")
    return header


def load_container(path):
    """(header, {group: {name: array}}) of a container or an official pickle, told by the content.

    Raises UserError for a missing, damaged or foreign file.
    """
    return official_pickle.read(path) if _is_official(path) else _load_own(path)


def _load_own(path):
    """As `load_container`, of a container."""
    def read(file, header):
        groups = {group: {} for group in header["digests"]}
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            group, name = key.split("/", 1)
            groups[group][name] = file.get_tensor(key)
        return header, groups

    header, groups = _open_container(path, read)
    for group, values in groups.items():
        if arrays_digest(values) != header["digests"][group]:
            raise UserError(f"{path}: damaged: the arrays of {group} do not match their digest; "
                            "use another snapshot")
    return header, groups


def _is_official(path):
    return Path(path).is_file() and official_pickle.is_pickle(path)


def _open_container(path, read):
    """Open a container, check that it is one, and return read(file, header)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such snapshot")
    _refuse_other_files(path)
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            text = metadata.get("header", "null")
            # Files of before the header's digest have none, but nothing in its place either.
            if metadata.get("header_sha256", _sha256(text)) != _sha256(text) or (
                    "header" in metadata and set(metadata) - {"header", "header_sha256"}):
                raise ValueError("the header does not match its digest")
            header = json.loads(text)
            if not isinstance(header, dict) or not isinstance(header.get("digests"), dict):
                raise UserError(f"{path}: a safetensors file, but not one of this program's "
                                "snapshots")
            if header.get("format_version") != FORMAT_VERSION:
                raise UserError(f"{path}: snapshot format {header.get('format_version')}; this "
                                f"program reads format {FORMAT_VERSION}")
            return read(file, header)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path}: damaged or not a snapshot ({util.one_line(error)})") from None


def _refuse_other_files(path):
    """Raise UserError for what is often found in a network's place."""
    with open(path, "rb") as file:
        start = file.read(256)
    mistaken = mistaken_for(start, "a network")
    if not start:
        mistaken = "an empty file: copy or download it again"
    if start.startswith(b"PK"):
        mistaken = ("a zip, as PyTorch saves networks; expected a snapshot of this program or a "
                    "pickle of the official TensorFlow release")
    if mistaken:
        raise UserError(f"{path}: {mistaken}")


def save_snapshot(path, networks, header):
    """Write a network snapshot; returns the Snapshot as it stands in the file."""
    groups = {name: network.get_arrays() for name, network in networks.items()}
    header = {**header, "kind": "networks", "digest": arrays_digest(groups["Gs"]),
              "networks": {name: {"type": type(network).__name__, "config": network.config}
                           for name, network in networks.items()}}
    save_container(path, header, groups)
    return Snapshot(networks, header, Path(path))


def load_snapshot(path, names=None):
    """Read a snapshot's networks (all, or those in `names`) inside the current strategy's scope.

    Raises UserError where the file is missing, damaged or does not fit its own header.
    """
    header, groups = load_container(path)
    _check_kind(path, header)
    return Snapshot(networks_from_groups(header, groups, path, names), header, Path(path))


def networks_from_groups(header, groups, source, names=None):
    """Build the networks that a container's header describes and give them their values."""
    networks = {}
    for name, made in header["networks"].items():
        if names is not None and name not in names:
            continue
        if made["type"] not in NETWORKS:
            raise UserError(f"{source}: made by an unknown network type {made['type']!r}")
        networks[name] = build(made["type"], name, made["config"])
        networks[name].set_arrays(groups[name], source=str(source))
    return networks


def find_snapshot(spec=None, results_dir="results"):
    """Path of the snapshot that `spec` means.

    None is the newest run that has one, a run's number or directory its best (else newest)
    snapshot, a file itself. Raises UserError saying what is there.
    """
    if spec is None:
        for run in reversed(util.list_runs(results_dir)):
            if list(run.glob("network-*.safetensors")):
                return best_snapshot(run)
        raise UserError(f"{results_dir}: no run with a network snapshot; train one with train.py "
                        "or give --network")
    path = Path(spec)
    if path.is_file():
        return path
    if path.is_dir():
        return best_snapshot(path)
    runs = util.list_runs(results_dir)
    matches = [run for run in runs if str(spec).isdigit() and int(run.name[:5]) == int(spec)]
    if matches:
        return best_snapshot(matches[0])
    raise UserError(f"{spec}: no such snapshot, run directory or run number; "
                    f"runs in {results_dir}: "
                    f"{', '.join(run.name for run in runs) or 'none'}")


def best_snapshot(run_dir):
    """The run's best snapshot by its best.json, else its newest one."""
    record = Path(run_dir) / "best.json"
    if record.is_file():
        best = util.read_json(record)
        if not isinstance(best, dict) or not isinstance(best.get("snapshot"), str):
            raise UserError(f"{record}: damaged; delete it, or name a snapshot file")
        path = Path(run_dir) / best["snapshot"]
        if path.is_file():
            return path
    snapshots = sorted(Path(run_dir).glob("network-snapshot-*.safetensors"), key=_kimg_in_name)
    final = Path(run_dir) / "network-final.safetensors"
    if final.is_file():
        return final
    if not snapshots:
        raise UserError(f"{run_dir}: no network snapshot in this run yet")
    return snapshots[-1]


def _kimg_in_name(path):
    """(kimg, name): 000012 comes before 000012.500, which it would not as text."""
    found = re.search(r"\d+(?:\.\d+)?", path.name)
    return float(found[0]) if found else 0.0, path.name


def save_state(run_dir, networks, optimizers, progress, keep=2):
    """Write `training-state-<nimg>` and keep the newest `keep` up to it.

    Later ones are removed: damaged, or of a future that was given up. While updates are being
    skipped (progress["skipped_in_a_row"]) none is removed, lest only such states be left.
    """
    groups = {name: network.get_arrays() for name, network in networks.items()}
    groups |= {f"opt_{name}": optimizer.get_arrays() for name, optimizer in optimizers.items()}
    header = {"kind": "state", "progress": progress,
              "networks": {name: {"type": type(network).__name__, "config": network.config}
                           for name, network in networks.items()}}
    path = Path(run_dir) / f"training-state-{progress['cur_nimg']:09d}.safetensors"
    save_container(path, header, groups)
    if progress["skipped_in_a_row"]:
        return
    states = list_states(run_dir)
    place = states.index(path) + 1
    for other in states[:max(place - keep, 0)] + states[place:]:
        other.unlink()


def list_states(run_dir):
    """Training states of a run, oldest first."""
    states = [p for p in Path(run_dir).iterdir() if STATE_PATTERN.fullmatch(p.name)]
    return sorted(states, key=_kimg_in_name)


def load_newest_state(run_dir, log):
    """(header, groups) of the newest undamaged training state, or None where there is none.

    A damaged one is reported through `log` and the one before is used. Raises UserError where all
    are damaged.
    """
    states = list_states(run_dir)
    for path in reversed(states):
        try:
            return _load_state(path)
        except UserError as error:
            log.info(f"warning: {error}; going back to the state before")
    if states:
        raise UserError(f"{run_dir}: none of its {len(states)} training states is whole; bring one "
                        "back from a copy, or delete them all to begin this run anew")
    return None


def _load_state(path):
    """(header, groups) of a training state. Raises UserError where it is damaged or another file.
    """
    header, groups = _load_own(path)
    networks, progress = header.get("networks"), header.get("progress")
    if header.get("kind") != "state" or not isinstance(networks, dict) or not isinstance(
            progress, dict):
        raise UserError(f"{path}: damaged: not a training state")
    missing = {*networks, *(f"opt_{name}" for name in networks if name != "Gs")} - set(groups)
    if missing:
        raise UserError(f"{path}: damaged: without {', '.join(sorted(missing))}")
    return header, groups


def remove_states_of_skips(run_dir):
    """Remove the training states that were made while updates were being skipped; returns the kimg
    of the newest one left, or None."""
    kimg = None
    for path in list_states(run_dir):
        progress = _open_container(path, lambda file, header: header["progress"])
        if progress.get("skipped_in_a_row"):
            path.unlink()
        else:
            kimg = progress["cur_nimg"] / 1000
    return kimg
