"""List the networks that the page of generate.py --explore offers, by name. They are loaded when
they are used, by one browser at a time."""

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib import util
from dnnlib.util import UserError
from training.cycle.translator import CycleTranslator
from training.sampler import Sampler
from training.segmentation.labeller import Labeller, read_labeller
from training.segmentation.segmenter import NETWORK as SEGMENTER
from training.snapshot_header import is_cyclegan, is_translator
from training.snapshots import best_snapshot, kimg_in_name, read_header
from training.translation.translator import Translator

GENERATOR, OF_LABELS, LABELLING, TRANSLATING = "generator", "pix2pix", "segmenter", "cyclegan"
FINAL = "network-final"
LOADED = 3  # networks that stay in memory

Network = Sampler | Translator | Labeller | CycleTranslator


def kind_of(header: dict[str, Any], path: Path) -> str:
    """Return the kind of network that a snapshot's header describes.

    Raises:
        UserError: the page can show no such network.
    """
    if is_cyclegan(header):
        return TRANSLATING
    if is_translator(header):
        return OF_LABELS
    if SEGMENTER in header["networks"]:
        return LABELLING
    if "Gs" in header["networks"]:
        return GENERATOR
    raise UserError(f"{path}: a snapshot of --variant={header.get('variant')}, which this page "
                    "cannot show; generate.py --help says what else there is")


class Networks:
    """Snapshots below a results folder, and the one of --network.

    A browser's request is looked up in the list, never opened as a path.

    Attributes:
        first: name of the network that is chosen at first; None if there is none.
        lock: held while a network is used.
    """

    def __init__(self, results: str | Path, named: Path | None = None):
        """List the snapshots.

        Args:
            named: snapshot of --network, which may be anywhere; it is chosen at first.
        """
        self._results, self._named = Path(results), named
        self.lock = threading.RLock()
        self._loaded: OrderedDict[tuple, Network] = OrderedDict()
        self._paths: dict[str, Path] = {}
        self.first: str | None = None
        self.refresh()

    def refresh(self) -> list[tuple[str, str]]:
        """List the snapshots again; return (displayed text, name) of each: newest runs first, and
        within a run the best snapshot, if one is known, then from the newest. Runs whose networks
        the page cannot show are left out."""
        entries = []
        for run in reversed(util.list_runs(self._results)):
            found = sorted(run.glob("network-*.safetensors"), reverse=True,
                           key=lambda path: (path.stem == FINAL, kimg_in_name(path)))
            if not found or not _is_shown(found[0]):
                continue
            best = None
            if (run / "best.json").is_file():
                # Scripts refuse a damaged file; here the snapshots are listed all the same.
                with contextlib.suppress(UserError):
                    best = best_snapshot(run)
            found.sort(key=lambda path: path != best)
            for path in found:
                name = f"{run.name}/{path.stem}"
                entries.append((name + " (best)" * (path == best), name, path))
        if self._named is not None and self._named not in [path for _, _, path in entries]:
            entries.insert(0, (str(self._named), str(self._named), self._named))
        paths = {name: path for _, name, path in entries}
        with self.lock:
            self._paths = paths
            self.first = next((name for name, path in paths.items()
                               if self._named in (None, path)), None)
        return [(shown, name) for shown, name, _ in entries]

    def path(self, name: str | None) -> Path:
        """Return the file of a name on the list. Raises UserError if it is not listed, or gone."""
        if not name:
            raise UserError(f"{self._results}: no run with a network snapshot yet; train one, or "
                            "start this page with --network")
        path = self._paths.get(name)
        if path is None:
            raise UserError(f"{name}: not one of the snapshots on the list; choose one of them")
        if not path.is_file():
            raise UserError(f"{name}: no such snapshot any more; choose another one")
        return path

    def header(self, name: str | None) -> dict[str, Any]:
        """Return the header of a snapshot."""
        return _read_header(*_version(self.path(name)))

    def generators_of(self, classes: tuple[str, ...]) -> list[str]:
        """Return the names of generators that draw maps of these classes, the first listed one of
        every run."""
        found, paths = [], self._paths
        for name, path in paths.items():
            if not path.is_file() or path.parent in [paths[other].parent for other in found]:
                continue
            with contextlib.suppress(UserError):  # skip damaged ones, and other kinds
                header = read_header(path)
                if kind_of(header, path) == GENERATOR and tuple(header["classes"]) == classes:
                    found.append(name)
        return found

    @contextlib.contextmanager
    def using(self, name: str | None, kind: str, **options: object) -> Iterator[Network]:
        """Yield a network for one browser at a time; load it if it is not loaded yet.

        Args:
            kind: the expected kind.
            options: options of the network's class.

        Raises:
            UserError: it is missing, damaged, or of another kind.
        """
        path = self.path(name)
        key = *_version(path), kind, *sorted(options.items())
        with self.lock:
            if key not in self._loaded:
                self._loaded[key] = _load(path, kind, options)
            self._loaded.move_to_end(key)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            yield self._loaded[key]


def _version(path):
    """Return values that change if the file is rewritten, perhaps with another network."""
    about = path.stat()
    return path, about.st_mtime_ns, about.st_size


@functools.lru_cache(64)
def _read_header(path, *_):
    """Return the header of a version of a file. It is cached, since an official pickle has to be
    read whole, and every movement of a slider needs the header."""
    return read_header(path)


def _is_shown(path):
    """Return whether the page can show a snapshot's network, or its error."""
    try:
        header = read_header(path)
    except UserError:  # damaged: the page reports it when it is chosen
        return True
    try:
        kind_of(header, path)
    except UserError:
        return False
    return True


def _load(path, kind, options):
    """Load the network of a snapshot; nothing is compiled, as pictures are drawn one by one."""
    header = read_header(path)
    if kind_of(header, path) != kind:
        raise UserError(f"{path.name}: a network of another kind; choose it again")
    if kind == GENERATOR:
        takes_label = header["networks"]["Gs"]["config"].get("label_size")
        return Sampler.load(path, 0 if takes_label else None, traced=False)
    if kind == OF_LABELS:
        return Translator(path, minibatch=1)
    if kind == LABELLING:
        return Labeller(read_labeller(path), minibatch=1)
    return CycleTranslator(path, minibatch=1, **options)
