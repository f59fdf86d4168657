"""Stand-ins for the scripts that take a moment instead of hours."""

import json
import runpy
import shlex
import sys
import traceback

import pytest

from dnnlib import charts
from experiments import leather_denim, study, tables, twenty_labels

# Drawn anew after every training, for a second each.
CHARTS = ((leather_denim, "curves"), (tables, "bar_chart"), (twenty_labels, "growth_chart"))
# Writes a training's files; a file `fail-<run>` makes it fail, `wait-<run>` wait for a signal.
TRAIN = """
import json, signal, sys, time
from pathlib import Path
options = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
root, run = Path(__file__).parent, Path(options["run"])
run.mkdir(parents=True, exist_ok=True)
def stop(number, frame):
    (run / "state").write_text(str(number))
    sys.exit(128 + number)
waits = (root / f"wait-{run.name}").exists()
for number in (signal.SIGINT, signal.SIGTERM) if waits else ():
    signal.signal(number, stop)
with open(root / "calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if (root / f"fail-{run.name}").exists():
    sys.exit(2)
deadline = time.monotonic() + 20
while (root / f"wait-{run.name}").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
(run / "stats.jsonl").write_text(json.dumps({"event": "tick", "stage": "classes",
    "Progress/kimg": 100.016, "Timing/total_sec": 600.0}) + "\\n")
(run / "network-final.safetensors").write_text("network")
"""
# Writes records with the values in `values.json` there: {run: {metric: {suffix: value}}}.
METRICS = """
import json, shlex, sys
from pathlib import Path
options = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
root, run = Path(__file__).parent, Path(options["network"])
folder = run if run.is_dir() else run.parent
with open(root / "calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
values = json.loads((root / "values.json").read_text())
for name in options["metrics"].split(","):
    results = values[run.name].get(name)
    if results is not None:
        results = {name + suffix: value for suffix, value in results.items()}
        record = {"metric": name, "results": results, "time_sec": 60.0,
                  "floor": {"results": {key: 0.001 for key in results}},
                  "command": shlex.join(["python", "run_metrics.py", *sys.argv[1:]])}
        with open(folder / f"metric-{name}.jsonl", "a") as file:
            file.write(json.dumps(record) + "\\n")
"""
NOTED = """
import json, sys
from pathlib import Path
with open(Path(__file__).parent / "calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


class StandIns:
    """The folder of the stand-ins, their calls, and the values that metrics return."""

    def __init__(self, root):
        self.root = root
        (root / "train.py").write_text(TRAIN)
        (root / "run_metrics.py").write_text(METRICS)
        for name in ("generate.py", "dataset_tool.py"):
            (root / name).write_text(NOTED)

    def calls(self):
        """Return the arguments of every call so far."""
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def trained(self):
        """Return the names of the trained runs, in order."""
        return [argument.rpartition("/")[2] for call in self.calls() for argument in call
                if argument.startswith("--run=")]

    def set_metrics(self, values):
        """Set {run: {metric: {suffix: value}}} for the coming runs."""
        (self.root / "values.json").write_text(json.dumps(values))


def run_here(processes, command):
    """Do Processes.run in this process: starting processes would take most of a study's test."""
    print(f"$ {shlex.join(command)}")
    before, sys.argv = sys.argv, command[1:]
    try:
        runpy.run_path(command[1])
    except SystemExit as leaving:
        return leaving.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def stand_ins(started, monkeypatch):
    """Return StandIns in place of the scripts, run in this process; no charts are drawn."""
    monkeypatch.setattr(study.Processes, "run", run_here)
    for module, name in CHARTS:
        monkeypatch.setattr(module, name, lambda *args: b"")
    return started


@pytest.fixture
def draw_charts(stand_ins, monkeypatch):
    """Return a function that lets the charts be drawn from now on."""
    def draw():
        for module, name in CHARTS:
            monkeypatch.setattr(module, name, getattr(charts, name))
    return draw


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return StandIns in place of the scripts, in separate processes."""
    root = tmp_path / "program"
    root.mkdir()
    monkeypatch.setattr(study, "ROOT", root)
    return StandIns(root)
