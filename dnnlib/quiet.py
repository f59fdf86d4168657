"""Keeps the greetings of TensorFlow's C++ side off the terminal.

They are written to file descriptor 2 before any log level is read: several lines about oneDNN, CPU
instructions, missing CUDA libraries and servers at every start, among which a one-line error would
be lost.
"""

import contextlib
import os
import re
import sys
import threading

_GREETINGS = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|To enable the following instructions:|"
    rb"[IWE]\d{4} [\d:.]+ +\d+ (port|cudart_stub|cuda_platform|cpu_feature_guard|util)\.cc:|"
    rb"I\d{4} [\d:.]+ +\d+ (grpc_server_lib|coordination_service\w*)\.|"
    rb"/job:worker/replica:0/task:\d+\n")


@contextlib.contextmanager
def native_greetings_hidden():
    """While it lasts, lines on file descriptor 2 pass a filter; Python's stderr stays the terminal.

    Does nothing where stderr is not the process's own (a test that captures it).
    """
    if sys.stderr is not sys.__stderr__:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=sys.stderr.encoding,
                           errors="backslashreplace")
    thread = threading.Thread(target=_pass_on, args=(read_end, terminal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # nobody reads what is still in its buffer
            sys.stderr.close()
        sys.stderr = sys.__stderr__
        os.dup2(terminal, 2)  # the pipe's last writer, unless a child process still has it
        thread.join(timeout=1)


def _pass_on(read_end, terminal):
    """Copy lines to the terminal, the greetings left out."""
    with os.fdopen(read_end, "rb") as lines:
        for line in lines:
            if not _GREETINGS.match(line):
                with contextlib.suppress(OSError):  # or the pipe would fill up
                    os.write(terminal, line)
