"""Connect a training's workers through TensorFlow's own coordination service.

The servers that the strategy starts have what is needed (the docs have measurements): a store of
keys and values in worker 0's server, and a health check that a server answers whatever its process
computes. A thread uses both, so a lost worker is noticed during a long evaluation as well as in a
collective operation.

Messages are neither signed nor encrypted: use it only in networks that you trust.
"""

import contextlib
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from dnnlib.cluster import JOIN_SEC, LOST_STATUS, SILENT_SEC, SharedError
from dnnlib.util import UserError, one_line

POLL_MS = 1000  # from one health check to the next
# Survivors stay until all have noticed which worker was lost; otherwise they would be lost as well.
LEAVE_TOGETHER_SEC = 5


class Connection:
    """This process's connection with the other workers.

    TensorFlow's server must run already: see `start_strategy`.

    Attributes:
        index, num_workers: this worker's place, and how many there are.
        on_stop: called, in a thread, when another worker was asked to stop; None: no call.
        report: takes the one line about a lost worker (stderr until it is set).
    """

    def __init__(self, addresses: list[str], index: int) -> None:
        self.addresses, self.index, self.num_workers = addresses, index, len(addresses)
        self.on_stop: Callable[[], None] | None = None
        self.report = lambda line: print(f"error: {line}", file=sys.stderr, flush=True)
        self._store = context.context()
        self._num_exchanges = self._num_news = 0
        self._closing = False
        self._lost_lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch_others, daemon=True, name="workers")

    def meet(self, facts: dict[str, Any]) -> None:
        """Wait for all workers, compare facts with them, and watch them from then on.

        Args:
            facts: {name: JSON value} that must be equal in all workers.

        Raises:
            UserError: if a worker is lost meanwhile, or, in every worker, if the facts differ.
        """
        # All workers must arrive, each with the facts of worker 0.
        facts = json.loads(json.dumps(facts | {"--workers": ",".join(self.addresses)}))
        try:
            found = self.exchange(facts, JOIN_SEC)
        except tf.errors.OpError as error:
            raise UserError(f"{_names([0], self.addresses)} left before all workers had come "
                            f"({one_line(error.message)[:200]})") from None
        missing = [worker for worker, value in enumerate(found) if value is None]
        if missing:
            raise UserError(_absence(missing, self.addresses))
        self._thread.start()
        for worker, theirs in enumerate(found):
            names = sorted(name for name in theirs.keys() | found[0].keys()
                           if theirs.get(name) != found[0].get(name))
            if names:
                self.close()
                raise SharedError("the workers were started differently: " + "; ".join(
                    f"{name} is {found[0].get(name)} at worker 0, {theirs.get(name)} at worker "
                    f"{worker}" for name in names))

    def exchange(self, value: Any, timeout_sec: float = math.inf) -> list[Any]:
        """Wait for all workers, and return the JSON values that they gave in this call, by worker.

        After `timeout_sec`, missing values are None. Raises tf.errors.OpError if worker 0 is lost
        meanwhile.
        """
        keys = [f"exchange/{self._num_exchanges}/{w}" for w in range(self.num_workers)]
        self._num_exchanges += 1
        self._store.set_config_key_value(keys[self.index], json.dumps(value))
        deadline = time.monotonic() + timeout_sec
        values = [self._get(key, deadline) for key in keys]
        # All workers are here, so all have read the values of the exchange before.
        if self._num_exchanges > 1 and None not in values:
            self._store.delete_config_key_value(
                f"exchange/{self._num_exchanges - 2}/{self.index}")
        return values

    def _get(self, key, deadline):
        """Return the value of a key as soon as it is set, or None after the deadline."""
        while True:
            # Wait in short pieces, between which Python's signal handlers run.
            with contextlib.suppress(tf.errors.DeadlineExceededError):
                return json.loads(self._store.get_config_key_value(key, timeout_in_ms=POLL_MS))
            if time.monotonic() > deadline:
                return None

    def request_stop(self) -> None:
        """Ask all other workers, whatever they are doing, to stop. This runs in a thread, since the
        signal handler that calls it must not wait."""
        threading.Thread(target=self._publish, args=({"stop": self.index},), daemon=True).start()

    def fail(self, reason: str) -> None:
        """Report to the others why this worker leaves; they leave too."""
        self._closing = True
        self._publish({"lost": f"{_names([self.index], self.addresses)} stopped: {reason}"})
        if self.index == 0:
            time.sleep(1)  # the others read it from this process
        self._end_watch()

    def close(self) -> None:
        """Leave together when all work is done."""
        self.exchange("done")
        self._end_watch()
        # From here on no worker watches the others, so processes may end. Worker 0's is the last.
        with contextlib.suppress(tf.errors.OpError):
            self.exchange("bye", SILENT_SEC)

    def wait_for_loss(self) -> None:
        """Give the thread time to find out which worker is lost, if TensorFlow noticed first. Does
        not return."""
        time.sleep(SILENT_SEC + 10)
        self._leave("a worker does not answer")

    def _publish(self, news):
        """Add an item to the news, which every worker reads."""
        # If worker 0, which has the store, is lost, the health check reports it.
        with contextlib.suppress(tf.errors.UnavailableError):
            for number in range(self._num_news, 1 << 30):
                with contextlib.suppress(tf.errors.AlreadyExistsError):
                    self._store.set_config_key_value(f"news/{number}", json.dumps(news))
                    return

    def _watch_others(self):
        """Read the news and check the others' health, in a thread, until this worker leaves."""
        while not self._closing:
            try:
                news = self._get(f"news/{self._num_news}", 0)
            except tf.errors.OpError:  # worker 0 is lost, see below
                news = None
                time.sleep(POLL_MS / 1000)
            if news:
                self._num_news += 1
                if "lost" in news and not self._closing:
                    self._leave(news["lost"])
                if "stop" in news and news["stop"] != self.index and self.on_stop:
                    self.on_stop()
            for worker in range(self.num_workers):
                if worker == self.index:
                    continue
                try:
                    self._store.check_collective_ops_peer_health(
                        f"/job:worker/replica:0/task:{worker}", timeout_in_ms=SILENT_SEC * 1000)
                except tf.errors.OpError:
                    if not self._closing:
                        self._leave(f"{_names([worker], self.addresses)} is lost")

    def _end_watch(self):
        self._closing = True
        self._thread.join(SILENT_SEC)

    def _leave(self, line):
        """Report the line and end this process. The first line counts; does not return."""
        self._lost_lock.acquire()
        try:
            self.report(f"{line}; restart all workers with the same command to continue")
            sys.stdout.flush()
            sys.stderr.flush()
            if self.num_workers > 2:
                time.sleep(LEAVE_TOGETHER_SEC)
        finally:
            # Not sys.exit: the main thread may wait for ever in a collective operation.
            os._exit(LOST_STATUS)


def _names(workers, addresses):
    return ", ".join(f"worker {w} ({addresses[w]})" for w in workers)


def _absence(missing, addresses):
    return (f"{_names(missing, addresses)} did not come within {JOIN_SEC:.0f} seconds; start all "
            "workers, each with its own --worker-index")


def _wait_for_servers(addresses):
    """Wait in worker 0 until the servers of all others accept connections; they do not wait for it.

    TensorFlow itself would wait for an hour without reacting to signals, and would not name the
    missing workers.
    """
    missing, deadline = list(range(1, len(addresses))), time.monotonic() + JOIN_SEC
    while missing:
        host, port = addresses[missing[0]].rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            del missing[0]
        except OSError:
            if time.monotonic() > deadline:
                raise UserError(_absence(missing, addresses)) from None
            time.sleep(0.2)


def start_strategy(addresses: list[str], index: int, num_gpus: int,
                   report: Callable[[str], None]) -> tf.distribute.MultiWorkerMirroredStrategy:
    """Start TensorFlow's server, wait for all workers and return their common strategy.

    Args:
        addresses, index: those of all workers, and this one's place.
        num_gpus: per worker; 0 on CPUs.
        report: takes lines about the wait.

    Raises:
        UserError: if the server cannot start, or if some workers do not arrive or are refused.
    """
    others = [worker for worker in range(len(addresses)) if worker != index]
    report(f"worker {index} of {len(addresses)}: waiting for {_names(others, addresses)}")
    if index == 0:
        _wait_for_servers(addresses)
    jobs = tf.compat.v1.ConfigProto().experimental.coordination_config.coordinated_job_list
    jobs.add(name="worker", num_tasks=len(addresses))
    # A long heartbeat timeout: the health check notices sooner, and knows which worker is lost.
    context.context().configure_coordination_service(
        "standalone", "/job:worker/task:0", coordinated_jobs=list(jobs),
        cluster_register_timeout_in_ms=JOIN_SEC * 1000,
        heartbeat_timeout_in_ms=2 * SILENT_SEC * 1000)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}), task_type="worker", task_id=index,
        num_accelerators={"GPU": num_gpus} if num_gpus else {}, rpc_layer="grpc")
    # Inside TensorFlow, only the system's own handler of Ctrl-C ends the process.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.UnknownError as error:
        raise UserError(f"worker {index}: TensorFlow could not start its server at "
                        f"{addresses[index]} ({one_line(error.message)}); is it running already? "
                        "Else give another port, to all workers") from None
    except tf.errors.InvalidArgumentError:
        raise UserError(f"worker 0 ({addresses[0]}) was given other workers than worker {index} "
                        f"({','.join(addresses)}); give all the same list") from None
    except tf.errors.OpError as error:
        raise UserError(f"worker {index} could not join worker 0 ({addresses[0]}) within "
                        f"{JOIN_SEC:.0f} seconds ({one_line(error.message)[:200]}); start all "
                        "workers, each once, and see that its port is open to this machine"
                        ) from None
    finally:
        signal.signal(signal.SIGINT, handler)
