"""Measure other processes, a command with its descendants (wall and processor time, memory), and
check interpreters for packages that this one may lack."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from dnnlib.util import UserError

SAMPLE_SEC = 0.05


def run_measured(command, cwd):
    """Run a command to its end; return {"wall_sec", "cpu_sec", "peak_mb", "peak_processes"}.

    cpu_sec is the processor time of all its processes. peak_mb is the largest of many samples of
    the sum of their proportional set sizes (memory shared by n processes counts 1/n in each), in
    10^6 bytes. Linux only. Raises UserError with the end of the command's stderr if it fails.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError("/proc/self/smaps_rollup: no such file; memory is measured on Linux only")
    started, peak, most = time.perf_counter(), 0, 0
    with tempfile.TemporaryFile() as complaints, \
            subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL,
                             stderr=complaints) as process:
        pid = 0
        while not pid:
            sizes = [pss_bytes(member) for member in process_tree(process.pid)]
            peak, most = max(peak, sum(sizes)), max(most, len(sizes))
            time.sleep(SAMPLE_SEC)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it from subprocess
        complaints.seek(0)
        reason = complaints.read().decode(errors="replace").strip()[-500:]
    if process.returncode:
        raise UserError(f"{' '.join(command)}: failed: {reason}")
    return {"wall_sec": time.perf_counter() - started, "peak_mb": peak / 1e6,
            "cpu_sec": usage.ru_utime + usage.ru_stime, "peak_processes": most}


def process_tree(root):
    """Return the ids of a process and all its descendants."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it has just ended
            continue
        parent = int(text.rpartition(")")[2].split()[1])  # names may contain spaces and brackets
        children.setdefault(parent, []).append(int(stat.parent.name))
    tree, queue = [], [root]
    while queue:
        tree.append(queue.pop())
        queue += children.get(tree[-1], [])
    return tree


def pss_bytes(pid):
    """Return a process's proportional set size; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def check_packages(python, packages, remedy):
    """Raise UserError if the interpreter `python` (--torch-python) lacks one of `packages`; the
    message names the last one, as pip spells it, and ends in `remedy`."""
    test = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    try:
        found = subprocess.run([python, "-c", test, *packages], check=False)
    except OSError as error:
        raise UserError(f"--torch-python={python}: cannot be run ({error})") from None
    if found.returncode:
        name = packages[-1].replace("_", "-")
        raise UserError(f"{python} has no {name}: python -m venv venv-torch && {remedy}")
