"""Which package may import which, and which modules must not import TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from training.variants import CONFIGS

ROOT = Path(__file__).resolve().parents[1]
# Every package with the packages it may import; the scripts may import all of them.
ROOMS = {
    "dnnlib": set(),
    "training": {"dnnlib"},
    "dataprep": {"dnnlib"},
    "metrics": {"dnnlib", "training"},
    "generation": {"dnnlib", "training", "metrics", "dataprep"},
    "experiments": {"dnnlib", "training", "dataprep", "metrics", "generation"},
}
OUTSIDE = {"train", "generate", "run_metrics", "dataset_tool", "benchmarks", "tests"}
# The part of training that metrics may use: networks and what draws with them, no training loop.
SHARED_WITH_METRICS = {"training.networks_stylegan", "training.snapshot_header",
                       "training.snapshots", "training.sampler",
                       "training.segmentation.labeller", "training.cycle.config",
                       "training.cycle.domains", "training.cycle.losses",
                       "training.cycle.translator", "training.pose.people",
                       "training.pose.reposer", "training.translation.losses",
                       "training.translation.translator"}
WITHOUT_TENSORFLOW = [
    "dnnlib.util", "dnnlib.charts", "dnnlib.page", "dnnlib.data.channels",
    "dnnlib.data.pictures", "dnnlib.data.films", "dnnlib.data.class_counts", "dnnlib.data.dataset",
    "training.gan.balance",
    "training.config", "training.gan.schedule", "training.run.run_page", "training.run.plan",
    "training.run.time_left", "training.run.status_line", "dataprep.coco.annotations",
    "dataprep.writer", "metrics.metric_base", "metrics.frechet_inception_distance",
    "metrics.kernel_inception_distance", "metrics.inception_score", "metrics.precision_recall",
    "metrics.results", "metrics.options", "metrics.image_sources", "metrics.map_quality",
    "metrics.label_agreement", "metrics.segmentation_scores", "metrics.networks.person",
    "metrics.cycle.measures",
    "experiments.study", "experiments.table1", "experiments.augment", "experiments.leather_denim",
    "experiments.semantic_critic"]


def imported_modules(path):
    """Return the full names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            is_folder = (ROOT / node.module.replace(".", "/")).is_dir()
            names |= {f"{node.module}.{alias.name}" if is_folder else node.module
                      for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_packages_import_only_allowed_ones(room):
    forbidden = (ROOMS.keys() | OUTSIDE) - ROOMS[room] - {room}
    for path in (ROOT / room).rglob("*.py"):
        assert not {name.partition(".")[0] for name in imported_modules(path)} & forbidden, path


def test_metrics_do_not_import_the_training_loop():
    for path in (ROOT / "metrics").rglob("*.py"):
        used = {name for name in imported_modules(path) if name.startswith("training.")}
        assert used <= SHARED_WITH_METRICS, path


def test_functions_are_traced_without_autograph():
    """It would write a file into the temporary folder for everything that is traced, which stays
    there if the process is ended, and take a second. Our functions have no control flow for it."""
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = [node for node in nodes if isinstance(node, ast.Attribute)
                and ast.unparse(node) == "tf.function"]
        calls = [node for node in nodes if isinstance(node, ast.Call) and node.func in used]
        assert len(calls) == len(used), path
        for call in calls:
            assert {key.arg: ast.unparse(key.value) for key in call.keywords}.get(
                "autograph") == "False", f"{path}:{call.lineno}"


@pytest.mark.parametrize("package, modules", [
    ("apache_beam", {"dnnlib/beam_runner.py"}), ("av", {"dnnlib/data/films.py"}),
    ("gradio", {"generation/explore/server.py", "generation/explore/page.py"})])
def test_optional_packages_are_imported_by_few_modules(package, modules):
    users = {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob(
        "*.py") if any(name.partition(".")[0] == package for name in imported_modules(path))}
    assert users == modules


def test_imports_have_no_circles():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    rest = {name: imported_modules(path) & modules.keys() for name, path in modules.items()}
    # Remove modules that import none of the remaining ones, until nothing changes.
    while leaves := {name for name, used in rest.items() if not used & rest.keys()}:
        rest = {name: used for name, used in rest.items() if name not in leaves}
    assert not rest, sorted(rest)


def test_formulas_and_plans_need_no_tensorflow():
    modules = ", ".join(WITHOUT_TENSORFLOW)
    code = f"import sys; import {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_needs_no_tensorflow():
    """TensorFlow takes seconds to import."""
    studies = [path for path in (ROOT / "experiments").glob("*.py")
               if "def main(" in path.read_text()]
    commands = [["generate"], ["run_metrics"], ["dataset_tool"], ["dataset_tool", "info"],
                *(["train", f"--variant={name}"] for name in CONFIGS),
                *([f"experiments.{path.stem}"] for path in studies)]
    code = f"""
import contextlib, importlib, io, sys
for name, *argv in {commands}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:
        importlib.import_module(name).main([*argv, "--help"])
    if "tensorflow" in sys.modules or "usage: " not in text.getvalue():
        sys.exit(f"{{name}} {{argv}}")
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, text=True,
                         stderr=subprocess.PIPE)
    assert len(studies) >= 6 and not ran.stderr and ran.returncode == 0, ran.stderr
