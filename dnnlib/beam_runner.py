"""Run independent parts of a job on Apache Beam; workers write results to a folder that all share.

    Create(elements) | Reshuffle | ParDo(a function that is made once in each worker)

Only this module imports Apache Beam. If Beam is not installed, importing this module raises
UserError.
"""

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

# As in the scripts (dnnlib.cli.run_main); it must be set before a worker imports TensorFlow.
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
    """One of Beam's runners with its options, checked. `run` can be called once."""

    def __init__(self, name: str, options: Sequence[str]) -> None:
        """Raise UserError if the runner or one of its options is unknown, or a value is wrong."""
        self._name = name
        parsed = _parse([f"--runner={name}", *options])
        try:
            self._pipeline = beam.Pipeline(options=parsed)
        except (AttributeError, ImportError, RuntimeError, ValueError) as error:
            raise UserError(f"--runner={name}: {one_line(error)[:_MAX_SHOWN]}") from error

    def run(self, start: Callable[[], Callable], elements: Iterable) -> None:
        """Call start() once in each worker, and the function that it returns with each element, in
        any order and perhaps more than once. `start` and the elements are pickled. Raises UserError
        if a worker or the runner fails."""
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), path]))  # of workers
        try:
            with _detect_dead_workers(), self._pipeline as pipeline:
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
        with contextlib.suppress(OSError):  # another machine may lack this folder
            os.chdir(self._folder)
        self._work = self._start()

    def process(self, element: object):
        self._work(element)


def _parse(flags):
    """Return PipelineOptions. Raises UserError for options that Beam itself would ignore, or refuse
    with a hundred lines of output."""
    unknown, printed = [], io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = PipelineOptions(flags)
            options.get_all_options(  # its parser, before Beam adds the unknown options to it
                retain_unknown_options=True,
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1]))
    except SystemExit as leaving:
        if not leaving.code:  # from --help
            raise
        raise UserError(f"--: {one_line(printed.getvalue().rpartition('error: ')[2])}") from None
    if unknown:
        raise UserError(f"--: Beam knows no option {unknown[0].partition('=')[0]}")
    return options


@contextlib.contextmanager
def _detect_dead_workers() -> Iterator[None]:
    """Raise UserError if a process of DirectRunner dies; Beam would wait for it for ever."""
    dead, hook = [], threading.excepthook

    def notice(args: threading.ExceptHookArgs):
        if args.thread is not None and args.thread.name == _WORKER_THREAD and not dead:
            dead.append(args.exc_value)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        elif not dead:  # other threads fail because of the death
            hook(args)
    threading.excepthook = notice
    # Not SIGINT, which shells have ignored by the commands that they start in the background.
    handler = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if not dead:
            raise
        raise UserError(f"a worker process died ({one_line(dead[0])}), perhaps for lack of memory; "
                        "run the same command again: it continues") from None
    finally:
        signal.signal(signal.SIGUSR1, handler)
        threading.excepthook = hook
