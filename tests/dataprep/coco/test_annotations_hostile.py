"""pycocotools crashes the process on bad polygons: those that pass the checks do not, those refused
would. Each runs in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataprep.coco.annotations import load_annotations

ROOT = Path(__file__).resolve().parents[3]
NAN, INF = float("nan"), float("inf")
ZIGZAG = [0, 0, 400, 400] * 200_000

# The address space is limited, so that using too much memory is an error and not a stalled machine.
PRELUDE = """
import json, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
warnings.simplefilter("ignore")
"""
UNCHECKED = PRELUDE.replace("3 <<", "1 <<") + """
from pycocotools import mask
print(mask.area(mask.merge(mask.frPyObjects(json.load(sys.stdin), 400, 400))))
"""
CHECKED = PRELUDE + """
import random
from dataprep.coco import annotations, segmentations
from dnnlib.data.photos import PhotoError
draw, count = random.Random(int(sys.argv[1])), int(sys.argv[2])
SIDES = [1, 2, 3, 17, 400, 600, 65536]
NUMBERS = [0, -0.0, 1, 0.5, -3, 1e-320, 5e-324, 1e9, -1e9, 1e300, 2**31, 2**32, 2**63, 10**400,
           float("nan"), float("inf"), -float("inf"), True, None, "3", [1], {}]

def number(side):
    kind = draw.random()
    if kind < 0.01:
        return draw.choice(NUMBERS)
    return draw.choice([0, side, side / 2, side + 0.5, -3.9 * side, 4.9 * side]) if kind < 0.3 \\
        else draw.uniform(-0.1, 1.1) * side

def polygon(width, height):
    points = draw.choice([1, 2, 3, 4, 5, 8, 30, 150])
    flat = [number(side) for _ in range(points) for side in (width, height)]
    return flat if draw.random() < 0.95 else flat[:-1]

tally = {"painted": 0, "nothing painted": 0, "left out": 0}
for _ in range(count):
    width, height = draw.choice(SIDES), draw.choice(SIDES)
    entries = [{"image_id": 1, "category_id": draw.randint(1, 13),
                "segmentation": [polygon(width, height) for _ in range(draw.randint(1, 3))]}
               for _ in range(draw.randint(1, 3))]
    with open(sys.argv[3], "w") as file:
        json.dump({"images": [{"id": 1, "width": width, "height": height}],
                   "annotations": entries}, file)
    found = annotations.load_annotations(sys.argv[3])
    tally["left out"] += len(found.defects)
    photo = found.photos[1]
    size = draw.choice([(1, 1), (40, 60), (60, 3), (513, 7), (400, 600)])
    try:
        labels = segmentations.label_map_and_overlap(photo, size)[0]
    except PhotoError:
        tally["nothing painted"] += 1
        continue
    assert labels.shape == size[::-1] and set(labels.ravel().tolist()) <= {
        0, *(instance.label for instance in photo.instances)}
    tally["painted"] += 1
print(json.dumps(tally))
"""


def run(code, *arguments, given=""):
    """Return the outcome of `code` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT,
                          input=given, text=True, capture_output=True, check=False)


def is_left_out(tmp_path, polygons):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({
        "images": [{"id": 1, "width": 400, "height": 400}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": polygons}]}))
    result = load_annotations(path)
    return len(result.defects) == 1 and not result.photos[1].instances


@pytest.mark.parametrize("polygon", [
    [0, 0, NAN, 5, 5, 5], [0, 0, 9, INF, 5, 5], [0, 0, 1e300, 5, 5, 5], [0, 0, -1e9, 5, 5, 5],
    ZIGZAG], ids=["nan", "infinity", "1e300", "-1e9", "zigzag"])
def test_polygons_that_would_crash_the_process_are_left_out(tmp_path, polygon):
    assert run(UNCHECKED, given=json.dumps([polygon])).returncode < 0
    assert is_left_out(tmp_path, [polygon])


@pytest.mark.parametrize("polygon", [
    [0, 0, 9, 0, 9, 9, 3], ["0", 0, 9, 0, 9, 9], [True, 0, 9, 0, 9, 9]],
    ids=["odd", "text", "truth"])
def test_polygons_that_would_be_misread_silently_are_left_out(tmp_path, polygon):
    done = run(UNCHECKED, given=json.dumps([polygon]))
    assert done.returncode == 0 and 30 < int(done.stdout) < 50
    assert is_left_out(tmp_path, [polygon])


def check_run(tmp_path, seed, count):
    done = run(CHECKED, seed, count, tmp_path / "a.json")
    assert done.returncode == 0, done.stderr[-2000:]
    tally = json.loads(done.stdout)
    assert min(tally.values()) > count // 20, tally
    return tally


def test_polygons_that_pass_the_checks_do_not_crash(tmp_path):
    check_run(tmp_path, seed=0, count=600)


@pytest.mark.slow
def test_polygons_that_pass_the_checks_do_not_crash_at_length(tmp_path):
    print(check_run(tmp_path, seed=1, count=int(os.environ.get("HOSTILE_EXAMPLES", "3000")) * 10))
