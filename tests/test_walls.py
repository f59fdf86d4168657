"""Who may import whom, and who stays free of TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"dataprep", "training", "metrics"}
SCRIPTS = {"train", "generate", "run_metrics", "dataset_tool", "judged", "benchmarks"}
WITHOUT_TENSORFLOW = [
    "dnnlib.util", "dnnlib.registry", "dnnlib.channels", "dnnlib.pictures",
    "training.config", "training.critics", "training.schedule", "training.forms",
    "training.operations", "training.page", "training.plan", "training.pace", "training.live",
    "dataprep.annotations", "dataprep.pyramid", "dataprep.writer",
    "metrics.metric_base", "metrics.frechet_inception_distance",
    "metrics.kernel_inception_distance", "metrics.inception_score", "metrics.precision_recall",
    "metrics.judge", "metrics.sources", "dnnlib.class_counts", "dnnlib.charts",
    "dnnlib.html"]


# One decoder serves data sets and metrics.
DOORS = {("metrics/sources.py", "dataprep.photos"), ("metrics/sources.py", "dataprep.photo_names")}


def imports(path):
    """Top-level names that a file imports, inside functions too, but for DOORS."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if (path.relative_to(ROOT).as_posix(), node.module) not in DOORS:
                yield node.module.split(".")[0]


@pytest.mark.parametrize("room, forbidden", [
    ("dnnlib", ROOMS | SCRIPTS), *((room, (ROOMS - {room}) | SCRIPTS) for room in sorted(ROOMS))])
def test_walls_between_rooms(room, forbidden):
    for path in (ROOT / room).rglob("*.py"):
        assert not set(imports(path)) & forbidden, path


def test_formulas_and_plans_need_no_tensorflow():
    modules = ", ".join(WITHOUT_TENSORFLOW)
    code = f"import sys; import {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
