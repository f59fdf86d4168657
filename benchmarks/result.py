"""Report what every benchmark has: the machine it ran on, and its result as JSON."""

import json
import platform
from pathlib import Path

from dnnlib import util

ROOT = Path(__file__).resolve().parents[1]


def cpu_name():
    """Return the processor's name as reported by Linux, else by Python."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(result, out=None):
    """Print `result` as JSON, and write it to the file `out` if one is given."""
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        util.atomic_write(out, text + "\n")
