"""Apache Beam, for work whose parts any worker does alone and writes to a folder that all see.

    Create(elements) | Reshuffle | ParDo(a function that is made once in each worker)

This module alone imports Apache Beam; where that is not installed, importing it is a UserError.
"""

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

# As the scripts do (dnnlib.cli.run_main), and before what a worker loads imports TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from dnnlib.util import UserError, one_line

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ModuleNotFoundError as missing:
    if missing.name.partition(".")[0] != "apache_beam":
        raise
    raise UserError("--runner: Apache Beam is not installed; install it with: pip install -r "
                    "requirements-beam.txt") from None

_ROOT = Path(__file__).resolve().parents[1]
_WORKER_THREAD = "run_worker"  # Beam's name of the threads that wait for DirectRunner's processes
_MAX_SHOWN = 300  # characters of Beam's own messages


class BeamRunner:
    """One of Beam's runners and its options, checked. It runs once."""

    def __init__(self, name: str, options: Sequence[str]) -> None:
        """Raise UserError if the runner or one of its options is unknown, or a value wrong."""
        self._name = name
        parsed = _parse([f"--runner={name}", *options])
        try:
            self._pipeline = beam.Pipeline(options=parsed)
        except (AttributeError, ImportError, RuntimeError, ValueError) as error:
            raise UserError(f"--runner={name}: {one_line(error)[:_MAX_SHOWN]}") from error

    def run(self, start: Callable[[], Callable], elements: Iterable) -> None:
        """Call start() once in each worker, and what it returns with each element, in any order and
        perhaps more than once. `start` and the elements are pickled. Raises UserError if that
        fails."""
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), path]))  # of workers
        try:
            with _dead_workers_noticed(), self._pipeline as pipeline:
                parts = pipeline | beam.Create(list(elements)) | beam.Reshuffle()
                parts | beam.ParDo(_Each(start))
        except UserError:
            raise
        except Exception as error:  # whatever workers and engines raise, with their traceback in it
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(f"--runner={self._name}: {one_line(last)[:_MAX_SHOWN]}; run the same "
                            "command again: it continues") from error


class _Each(beam.DoFn):
    """Call a function with every element."""

    def __init__(self, start):
        self._start, self._folder = start, os.getcwd()

    def setup(self):
        with contextlib.suppress(OSError):  # on another machine only absolute paths may be there
            os.chdir(self._folder)
        self._work = self._start()

    def process(self, element: object):
        self._work(element)


def _parse(flags):
    """Return PipelineOptions. Raises UserError for what Beam itself would ignore or refuse in a
    hundred lines."""
    unknown, printed = [], io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = PipelineOptions(flags)
            options.get_all_options(  # its parser, before it learns what it does not know
                retain_unknown_options=True,
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1]))
    except SystemExit as leaving:
        if not leaving.code:  # of --help
            raise
        raise UserError(f"--: {one_line(printed.getvalue().rpartition('error: ')[2])}") from None
    if unknown:
        raise UserError(f"--: Beam knows no option {unknown[0].partition('=')[0]}")
    return options


@contextlib.contextmanager
def _dead_workers_noticed() -> Iterator[None]:
    """Raise UserError if a process of DirectRunner dies, for which it would wait for ever."""
    dead, hook = [], threading.excepthook

    def notice(args: threading.ExceptHookArgs):
        if args.thread is not None and args.thread.name == _WORKER_THREAD and not dead:
            dead.append(args.exc_value)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        elif not dead:  # others end because of it
            hook(args)
    threading.excepthook = notice
    try:
        yield
    except KeyboardInterrupt:
        if not dead:
            raise
        raise UserError(f"a worker process died ({one_line(dead[0])}), perhaps for lack of memory; "
                        "run the same command again: it continues") from None
    finally:
        threading.excepthook = hook
