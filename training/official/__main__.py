"""Convert networks between this program and the official StyleGAN release of 2019.

    python -m training.official convert network-final.pkl network-final.safetensors
    python -m training.official export results/00000-rgb-mine arrays.npz

generate.py, run_metrics.py and train.py --init-from take official pickles directly; `convert` makes
a snapshot from one. `export` writes the arrays of a snapshot (or pickle) as .npz, named G/...,
D/..., Gs/..., as in G.vars, D.vars, Gs.vars of the official code with fused_scale='auto'.
"""

from pathlib import Path

import numpy as np

from dnnlib import cli, util
from dnnlib.safe_pickle import is_pickle
from dnnlib.util import UserError
from training.official.pickles import critic_of, official_arrays

_EXAMPLES = """\
  python -m training.official convert karras2019stylegan-ffhq.pkl ffhq.safetensors
  python -m training.official export results/00000-rgb-mine arrays.npz
"""


def convert(source: str, out: str) -> str:
    """Write an official pickle as a network snapshot; return what to print."""
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    if not is_pickle(source):
        raise UserError(f"{source}: not a pickle of the official release")
    # Imported here so that --help and wrong options get an answer at once.
    from training.snapshots import load_snapshot, save_snapshot

    snapshot = load_snapshot(source)
    saved = save_snapshot(out, snapshot.networks, snapshot.header)
    lod = saved.header["lod"]
    return (f"wrote {out}: {', '.join(saved.networks)}, {lod['resolution']}x{lod['resolution']}, "
            f"digest {saved.header['digest'][:12]}\n"
            f"Next: python generate.py --network={out} --seeds=0-35")


def export(spec: str, results: str, out: str) -> str:
    """Write a snapshot as .npz under the official names; return what to print."""
    from training.networks_stylegan import G_style
    from training.snapshots import find_snapshot, load_snapshot

    path = find_snapshot(spec, results)
    snapshot = load_snapshot(path)
    if not isinstance(snapshot.networks.get("Gs"), G_style):
        raise UserError(f"{path}: a snapshot of --variant={snapshot.header.get('variant')}; the "
                        "official release has no such network")
    # All arrays under their official names, in one file.
    groups = {name: network.get_arrays() for name, network in snapshot.networks.items()}
    arrays = official_arrays(snapshot.header, groups)
    with util.atomic_path(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    critic = critic_of(snapshot.header)
    return (f"wrote {out}: {len(arrays)} arrays of {path}; "
            f"D is {critic or 'missing: no critic of the snapshot sees all channels'}")


def main(argv: list[str]) -> int:
    """Parse options; convert or export; return the exit status."""
    parser = cli.argument_parser(__doc__.split("\n\n")[0].replace("\n", " "), _EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, source, kind, suffix in (
            ("convert", "official pickle -> snapshot of this program", "IN",
             "official .pkl file", ".safetensors"),
            ("export", "snapshot -> .npz under the official names", "SNAPSHOT",
             "snapshot file, run directory, run number or official .pkl file", ".npz")):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--debug", action="store_true", help="show a traceback with an error")
        sub.add_argument("source", metavar=source, help=kind)
        sub.add_argument("out", metavar="OUT", help=f"file to write, *{suffix}")
        sub.set_defaults(suffix=suffix)
    commands.choices["export"].add_argument("--results", default="results", metavar="DIR",
                                            help="directory of the runs (default: results)")
    options = parser.parse_args(argv)
    if Path(options.out).suffix != options.suffix or Path(options.out).is_dir():
        raise UserError(f"{options.out}: expected the name of a {options.suffix} file to write")
    print(convert(options.source, options.out) if options.command == "convert"
          else export(options.source, options.results, options.out))
    return 0


if __name__ == "__main__":
    cli.run_main(main)
