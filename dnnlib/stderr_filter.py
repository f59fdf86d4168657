"""Hide what TensorFlow's C++ side prints at every start.

It writes to file descriptor 2 before it reads any log level: several lines about oneDNN, CPU
instructions, missing CUDA libraries and servers, in which a one-line error would be lost.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

_BANNER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|To enable the following instructions:|"
    rb"[IWE]\d{4} [\d:.]+ +\d+ (port|cudart_stub|cuda_platform|cpu_feature_guard|util)\.cc:|"
    rb"I\d{4} [\d:.]+ +\d+ (grpc_server_lib|coordination_service\w*)\.|"
    rb"/job:worker/replica:0/task:\d+\n")


@contextlib.contextmanager
def hide_tensorflow_banner() -> Iterator[None]:
    """Filter the lines that are written to file descriptor 2, but not those of Python's stderr.

    Does nothing if stderr is not the process's own (if a test captures it).
    """
    if sys.stderr is not sys.__stderr__:
        yield
        return
    # Descriptor 2 becomes a pipe to the thread, Python's stderr a second way to the terminal.
    sys.stderr.flush()
    terminal = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=sys.stderr.encoding,
                           errors="backslashreplace")
    thread = threading.Thread(target=_copy_lines, args=(read_end, terminal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the terminal is gone, so the buffer cannot be written
            sys.stderr.close()
        sys.stderr = sys.__stderr__
        os.dup2(terminal, 2)  # closes the pipe, unless a child process still has it
        thread.join(timeout=1)


def _copy_lines(read_end, terminal):
    """Copy all lines except the banner's to the terminal."""
    with os.fdopen(read_end, "rb") as lines:
        for line in lines:
            if not _BANNER.match(line):
                with contextlib.suppress(OSError):  # keep reading, or the pipe would fill up
                    os.write(terminal, line)
