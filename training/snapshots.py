"""Network snapshots: files of networks and what is known about them, and how to find one.

All files are of one kind, a container: a safetensors file with a JSON header and arrays named
`<group>/<name>`. A snapshot has a group for every network; a training state (state.py) also has
groups `opt_<network>`, and counters. The header has a digest of every group, by which damage is
noticed. Pickles of the official release are read in the same form (official/pickles.py), as data:
they are never unpickled.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import training.decoder.networks
import training.networks_stylegan
import training.networks_translation
import training.pose.networks
import training.segmentation.networks  # noqa: F401 (they register the types in snapshots)
from dnnlib import util
from dnnlib.safe_pickle import is_pickle
from dnnlib.tflib.network import NETWORKS, Network, build
from dnnlib.util import UserError, arrays_digest, mistaken_for
from training.official import pickles as official_pickle
from training.run.history import BEST, FINAL
from training.snapshot_header import check_header

FORMAT_VERSION = 1
Groups = dict[str, dict[str, np.ndarray]]  # {group: {name: array}}


@dataclass(frozen=True)
class Snapshot:
    """Networks and what is known about them.

    Attributes:
        networks: {name: Network}; for a Style-GAN G, Gs (its running average) and every critic's D.
        header: classes, stage, kimg, lod {resolution, fade}, dataset {name, path, digest,
            resolution, content_box (dnnlib.data.dataset)}, scores, digest (of Gs, if there is
            one), ...
        path: the file; None for networks in training.
    """

    networks: dict[str, Network]
    header: dict[str, Any]
    path: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names of the channels after the colours; ('any',) in the binary stage.
        """
        return tuple(self.header["classes"])


def save_container(path: str | Path, header: dict[str, Any], groups: Groups) -> None:
    """Write {group: {name: float32 array}} and a JSON header, atomically."""
    arrays = {f"{group}/{name}": np.asarray(value, np.float32, order="C")
              for group, values in groups.items() for name, value in values.items()}
    header = {**header, "format_version": FORMAT_VERSION,
              "digests": {group: arrays_digest(values) for group, values in groups.items()}}
    text = json.dumps(header)
    metadata = {"header": text, "header_sha256": _sha256(text)}
    # Saved as bytes, since files that the library writes itself are readable only by their owner.
    util.atomic_write(path, save(arrays, metadata=metadata))


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header of a network snapshot or official pickle.

    Raises:
        UserError: the file is missing, or neither.
    """
    if _is_official(path):
        return official_pickle.read(path)[0]
    return _check_kind(path, open_container(path, lambda file, header: header))


def _check_kind(path, header):
    if header.get("kind") != "networks":
        raise UserError(f"{path}: a training state; a network snapshot is wanted")
    try:
        check_header(header)
    except ValueError as error:
        raise UserError(f"{path}: {error}; use another snapshot") from None
    return header


def _is_official(path):
    return Path(path).is_file() and is_pickle(path)


def load_container(path: str | Path) -> tuple[dict[str, Any], Groups]:
    """Return (header, groups) of a container or an official pickle, whichever the file holds.

    Raises:
        UserError: the file is missing, damaged or neither.
    """
    return official_pickle.read(path) if _is_official(path) else load_own(path)


def load_own(path: str | Path) -> tuple[dict[str, Any], Groups]:
    """Return (header, groups) of a container, and check every group against its digest."""
    def read(file: safe_open, header: dict[str, Any]) -> tuple[dict[str, Any], Groups]:
        groups = {group: {} for group in header["digests"]}
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            group, name = key.split("/", 1)
            groups[group][name] = file.get_tensor(key)
        return header, groups

    header, groups = open_container(path, read)
    for group, values in groups.items():
        if arrays_digest(values) != header["digests"][group]:
            raise UserError(f"{path}: damaged: the arrays of {group} do not match their digest; "
                            "use another snapshot")
    return header, groups


def open_container(path: str | Path, read: Callable) -> Any:
    """Open a container, check that it is one, and return read(file, header)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such snapshot")
    # Files that users often give instead of a network.
    with open(path, "rb") as file:
        start = file.read(256)
    mistaken = mistaken_for(start, "a network")
    if start.startswith(b"PK"):
        mistaken = ("a zip, as PyTorch saves networks; expected a snapshot of this program or a "
                    "pickle of the official TensorFlow release")
    if mistaken:
        raise UserError(f"{path}: {mistaken}")
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            text = metadata.get("header", "null")
            # Older files have no digest of the header; any other key means a foreign file.
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
        raise UserError(f"{path}: cut short, damaged or not a snapshot ({util.one_line(error)}); "
                        "copy it again, or use another snapshot") from None


def networks_header(networks: dict[str, Network]) -> dict[str, dict[str, Any]]:
    """Return {name: type and options} of networks, for `networks_from_groups` to build them."""
    return {name: {"type": type(network).__name__, "config": network.config}
            for name, network in networks.items()}


def save_snapshot(path: str | Path, networks: dict[str, Network],
                  header: dict[str, Any]) -> Snapshot:
    """Write a network snapshot; return the Snapshot as it is in the file."""
    groups = {name: network.get_arrays() for name, network in networks.items()}
    whole = {f"{name}/{key}": value for name, arrays in groups.items()
             for key, value in arrays.items()}
    header = {**header, "kind": "networks", "digest": arrays_digest(groups.get("Gs", whole)),
              "networks": networks_header(networks)}
    save_container(path, header, groups)
    return Snapshot(networks, header, Path(path))


def load_snapshot(path: str | Path, names: Sequence[str] | None = None) -> Snapshot:
    """Read a snapshot's networks (all, or those in `names`) in the current strategy's scope.

    Raises:
        UserError: the file is missing, damaged or does not fit its own header.
    """
    header, groups = load_container(path)
    _check_kind(path, header)
    return Snapshot(networks_from_groups(header, groups, path, names), header, Path(path))


def networks_from_groups(header: dict[str, Any], groups: Groups, source: str | Path,
                         names: Sequence[str] | None = None) -> dict[str, Network]:
    """Build the networks that a container's header describes, and set their values.

    Raises:
        UserError: a network has an unknown type, or its options and values do not fit.
    """
    networks = {}
    for name, made in header["networks"].items():
        if names is not None and name not in names:
            continue
        if made["type"] not in NETWORKS:
            raise UserError(f"{source}: made by an unknown network type {made['type']!r}")
        # Allow ten times as many numbers as the file has: enough to list what is missing in it, but
        # not enough for options that would fill the memory.
        values = groups.get(name, {})
        try:
            networks[name] = build(made["type"], name, made["config"],
                                   room=10 * sum(value.size for value in values.values()))
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError,
                MemoryError) as error:  # networks raise these for wrong types and sizes
            raise UserError(f"{source}: the options of network {name} cannot be right "
                            f"({util.one_line(error)[:200]}); use another snapshot") from None
        networks[name].set_arrays(values, source=str(source))
    return networks


def find_snapshot(spec: str | Path | None = None, results_dir: str = "results") -> Path:
    """Return the path of the snapshot that `spec` refers to.

    Args:
        spec: a snapshot file; or a run's directory or number, for its best snapshot, or its newest
            if no best one is recorded; or None, for the newest run that has a snapshot.
        results_dir: directory of the runs.

    Raises:
        UserError: there is none; the message lists the runs.
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
    if not path.is_dir():
        file = Path(f"{spec}.safetensors")
        path = numbered_run(spec, results_dir,
                            f"{spec}: no such snapshot, run directory or run number"
                            + (f"; did you mean {file}?" if file.is_file() else ""))
    return best_snapshot(path)


class SnapshotModel:
    """Base class of what uses a snapshot's networks: made from its file and other options."""

    @classmethod
    def load(cls, spec: str | Path | None, results_dir: str = "results", *args: Any,
             **options: Any) -> Self:
        """Make it from a snapshot file, run directory or run number; see `find_snapshot`."""
        return cls(find_snapshot(spec, results_dir), *args, **options)

    @staticmethod
    def check(path: Path, variant: str, lack: str, *names: str) -> dict[str, Any]:
        """Return the header of a snapshot file.

        Args:
            lack: what networks of other variants cannot do: 'translates no photos'.
            names: networks that the snapshot must hold.

        Raises:
            UserError: the snapshot is of another --variant, or lacks a network.
        """
        header = read_header(path)
        if header.get("variant") != variant:
            raise UserError(f"{path}: a snapshot of --variant={header.get('variant')}, which "
                            f"{lack} (train.py --variant={variant})")
        if missing := [name for name in names if name not in header["networks"]]:
            raise UserError(f"{path}: holds no network {missing[0]}; use another snapshot")
        return header


def numbered_run(number: str | Path, results_dir: str | Path, error: str) -> Path:
    """Return the run with a number; if there is none, raise UserError: `error` and all runs."""
    runs = util.list_runs(results_dir)
    for run in runs:
        if str(number).isdecimal() and int(run.name[:5]) == int(str(number)):
            return run
    raise UserError(f"{error}; runs in {results_dir}: "
                    f"{', '.join(run.name for run in runs) or 'none'}")


def best_snapshot(run_dir: str | Path) -> Path:
    """Return the run's best snapshot according to its best.json, else its newest one."""
    record, final = Path(run_dir) / BEST, Path(run_dir) / FINAL
    if record.is_file():
        best = util.read_json(record)
        if not isinstance(best, dict) or not isinstance(best.get("snapshot"), str):
            raise UserError(f"{record}: damaged; delete it, or name a snapshot file")
        if (Path(run_dir) / best["snapshot"]).is_file():
            return Path(run_dir) / best["snapshot"]
    if final.is_file():
        return final
    snapshots = sorted(Path(run_dir).glob("network-snapshot-*.safetensors"), key=kimg_in_name)
    if not snapshots:
        raise UserError(f"{run_dir}: no network snapshot in this run yet")
    return snapshots[-1]


def kimg_in_name(path: Path) -> tuple[float, str]:
    """Return (kimg, name) to sort by: 000012 comes before 000012.500, which it does not as text."""
    found = re.search(r"\d+(?:\.\d+)?", path.name)
    return float(found[0]) if found else 0.0, path.name
