"""Several processes that do one piece of work together: how they meet, agree and miss each other.

Worker 0, the chief, waits at its own address until all others have connected to it and all were
given the same options. These connections stay open, one JSON message a line, while the work lasts;
the port is free for TensorFlow's server again as soon as all are there. They carry

* small values that all must know (`Link.exchange`), in lockstep;
* a request to stop, at any time (`Link.ask_to_stop`);
* the news that a worker is gone. The system closes the connections of a process that dies, however
  it dies, and looks after machines that fall silent, so that no thread of ours must stay awake to
  be taken for alive: a chief that computes for minutes is not missed.

Whoever misses a worker says so in one line and leaves at once with status `LOST_STATUS`, whatever
its main thread is waiting for.

Messages are neither signed nor encrypted (nor are TensorFlow's own): for networks one trusts.
"""

import contextlib
import json
import os
import queue
import re
import select
import socket
import sys
import threading
import time

from dnnlib.util import UserError, one_line

LOST_STATUS = 3
JOIN_SEC = 600  # to wait for workers that were not started yet
LEAVE_SEC = 60  # within which all have left after one was lost; README and docs state it
# A machine that answers nothing for 10 + 3 * 10 seconds is gone (a process that ends is seen at
# once). The system asks and answers, not the processes.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 40_000}
_LINE_BYTES = 1 << 20


class SharedError(UserError):
    """A UserError that all workers raise at the same place: none has to tell the others."""


def find_workers(workers, index, environment):
    """(addresses, own index) that the options or TF_CONFIG give, or (None, 0) where neither does.

    Args:
        workers: 'host:port,host:port,...' or None. index: of this process, or None.
        environment: the value of TF_CONFIG, or None.

    Raises UserError for anything that is not one list of different addresses and a place in it.
    """
    if workers is None and index is None:
        if not environment:
            return None, 0
        addresses, index = _tf_config(environment)
        option = "TF_CONFIG"
        if not addresses:
            return None, 0
    elif workers is None:
        raise UserError("--worker-index: needs --workers=host:port,host:port,...")
    elif environment:
        raise UserError("--workers: the environment has TF_CONFIG too; give one of the two "
                        "(`unset TF_CONFIG`)")
    elif index is None:
        raise UserError("--workers: needs --worker-index, the place of this process in the list, "
                        "from 0")
    else:
        addresses, option = workers.split(","), "--workers"
    _check_addresses(addresses, option)
    if not 0 <= index < len(addresses):
        raise UserError(f"--worker-index={index}: expected a number from 0 to "
                        f"{len(addresses) - 1}, since {option} lists {len(addresses)}")
    return (addresses, index) if len(addresses) > 1 else (None, 0)


def _tf_config(text):
    """(addresses, index) of TF_CONFIG, a chief that is listed apart being number 0."""
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        if not cluster:
            return [], 0
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        kind, index = config["task"]["type"], int(config["task"]["index"])
        if kind not in ("chief", "worker") or set(cluster) - {"chief", "worker"}:
            raise UserError("TF_CONFIG: only tasks of type chief and worker train here; it has "
                            f"{', '.join(sorted({*cluster, kind}))}")
        return [*chiefs, *workers], index + (len(chiefs) if kind == "worker" else 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG: {type(error).__name__}: {one_line(error)}; expected JSON such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
            '"index": 0}}') from None


def _check_addresses(addresses, option):
    for address in addresses:
        match = isinstance(address, str) and re.fullmatch(r"[\w.-]+:(\d{1,5})", address)
        if not match or not 1 <= int(match[1]) <= 65535:
            raise UserError(f"{option}: {address!r}: expected host:port, such as 10.0.0.1:2222")
        if addresses.count(address) > 1:
            raise UserError(f"{option}: {address} is given twice; each worker has a port of its "
                            "own")


class Link:
    """This process's connections with the other workers: the chief's with all, theirs with it.

    Attributes: index, num_workers; on_stop, a function that is called, in a thread, where another
    worker was asked to stop (None: nothing is); tell, a function that the one line about a lost
    worker goes to (stderr until it is set).
    """

    def __init__(self, addresses, index, sockets):
        """`sockets`: {worker: connected socket}. Made by `join`."""
        self.addresses, self.index, self.num_workers = addresses, index, len(addresses)
        self.on_stop = None
        self.tell = lambda line: print(f"error: {line}", file=sys.stderr, flush=True)
        self._peers = {worker: _Peer(sock) for worker, sock in sockets.items()}
        self._leaving = threading.Lock()
        self._closing = False
        self._threads = [threading.Thread(target=self._listen, args=(worker,), daemon=True,
                                          name=f"worker {worker}") for worker in self._peers]
        for thread in self._threads:
            thread.start()

    @property
    def is_chief(self):
        return self.index == 0

    def exchange(self, value):
        """The JSON values that all workers gave at this call, by worker; waits for all."""
        if self.is_chief:
            values = [value, *(self._peers[w].inbox.get() for w in range(1, self.num_workers))]
            self._send_all({"value": values})
            return values
        self._send_all({"value": value})
        return self._peers[0].inbox.get()

    def ask_to_stop(self):
        """Tell all workers, whatever they are doing, that one was asked to stop.

        Sent by a thread: a signal's handler may interrupt the main one in the middle of a message.
        """
        threading.Thread(target=self._send_all, args=({"stop": True},), daemon=True).start()

    def close(self):
        """Leave together, all work being done."""
        self.exchange("done")
        self._closing = True
        self._send_all({"bye": True})
        for thread in self._threads:
            thread.join()

    def fail(self, reason):
        """Tell the others why this worker leaves alone; they leave too."""
        self._closing = True
        self._send_all({"lost": f"{self._name(self.index)} stopped: {reason}"})

    def wait_for_loss(self, line):
        """Where TensorFlow misses a worker first: give the connections time to say which one.

        Does not return.
        """
        time.sleep(5)
        self._lost(line)

    def _name(self, worker):
        return f"worker {worker} ({self.addresses[worker]})"

    def _send_all(self, message, but=None):
        for worker, peer in self._peers.items():
            if worker != but:
                peer.send(message)

    def _listen(self, worker):
        """In a thread: take in what a worker says, until it is gone."""
        for message in self._peers[worker].messages():
            if "value" in message:
                self._peers[worker].inbox.put(message["value"])
            elif "stop" in message:
                if self.is_chief:
                    self._send_all(message, but=worker)
                if self.on_stop:
                    self.on_stop()
            elif "lost" in message:
                self._lost(message["lost"])
            elif "bye" in message:
                break
        else:
            if not self._closing:
                self._lost(f"{self._name(worker)} is lost")
        self._peers[worker].close()

    def _lost(self, line):
        """Pass the news on, say it and leave. The first line counts; does not return."""
        self._leaving.acquire()
        self._send_all({"lost": line})
        try:
            self.tell(f"{line}; restart all workers with the same command to continue")
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # Not sys.exit: the main thread may wait for ever in a collective operation.
            os._exit(LOST_STATUS)


class _Peer:
    """One connection: messages out and in."""

    def __init__(self, sock):
        self.inbox = queue.SimpleQueue()
        self._socket, self._sending = sock, threading.Lock()
        self._lines = sock.makefile("rb")

    def send(self, message):
        """Send a message; one that cannot be sent is missed by whoever reads from this peer."""
        with self._sending, contextlib.suppress(OSError):  # a closed one raises OSError too
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def close(self):
        """Let go of the connection."""
        with self._sending:
            self._lines.close()
            self._socket.close()

    def messages(self):
        """Yield messages until the connection ends."""
        with contextlib.suppress(OSError, ValueError):
            while line := self._lines.readline(_LINE_BYTES):
                yield json.loads(line)


def join(addresses, index, facts, say=print, timeout_sec=JOIN_SEC):
    """Meet all workers and make sure that they were started alike; returns the Link.

    Args:
        facts: {name: JSON value} that must be equal in all workers. say: takes lines to print.

    Raises UserError, in every worker, where facts differ; in those who wait where not all come
    within `timeout_sec`; in the one concerned where its port is taken or its place is.
    """
    meet = _gather if index == 0 else _reach
    sockets = meet(addresses, index, json.loads(json.dumps(facts)), say,
                   time.monotonic() + timeout_sec, timeout_sec)
    for sock in sockets.values():
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # they are called otherwise on some systems
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Link(addresses, index, sockets)


def _server(addresses, index):
    """A listening socket at this worker's own port. Raises UserError where that is taken."""
    port = int(addresses[index].rsplit(":", 1)[1])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise UserError(f"worker {index} cannot listen at port {port} of this machine "
                        f"({os.strerror(error.errno)}); is it running already? Else give another "
                        "port, to all workers") from None


def _gather(addresses, index, facts, say, deadline, timeout_sec):
    """The chief's side of `join`: {worker: socket}, once all have come.

    Only then facts are compared: whoever came later would find nobody to tell it the difference.
    """
    sockets, problems = {}, {}
    missing = set(range(1, len(addresses)))
    say(f"worker 0 of {len(addresses)}: waiting for {_names(addresses, missing)}")
    with _server(addresses, index) as listener:
        while missing:
            if not select.select([listener], [], [], max(deadline - time.monotonic(), 0))[0]:
                problems = {0: f"{_names(addresses, missing)} did not come within "
                               f"{timeout_sec:.0f} seconds; start all workers, each with its own "
                               "--worker-index"}
                break
            sock = listener.accept()[0]
            worker, theirs = _hello(sock, addresses, sockets)
            if worker is None:
                sock.close()
                continue
            if worker in sockets:
                sockets[worker].close()
            sockets[worker], problems[worker] = sock, _difference(worker, theirs, facts)
            missing.discard(worker)
    problem = next((problems[w] for w in sorted(problems) if problems[w]), None)
    for sock in sockets.values():
        _say(sock, {"refused": problem} if problem else {"welcome": True})
    if problem:
        for sock in sockets.values():
            sock.close()
        raise UserError(problem)
    return sockets


def _names(addresses, workers):
    return ", ".join(f"worker {w} ({addresses[w]})" for w in sorted(workers))


def _hello(sock, addresses, sockets):
    """(worker, its facts) of a new connection, or (None, None) where it cannot take part."""
    hello = _hear(sock, 5)
    if not isinstance(hello, dict) or not isinstance(hello.get("facts"), dict):
        return None, None  # someone who tries ports, or TensorFlow of a run that just ended
    worker = hello.get("worker")
    if hello.get("workers") != addresses or worker not in range(1, len(addresses)):
        problem = (f"worker {worker} was given other workers ({_listed(hello.get('workers'))}) "
                   f"than worker 0 ({_listed(addresses)}); give all the same list")
    elif worker in sockets and not _hung_up(sockets[worker]):
        problem = f"--worker-index={worker}: this worker is there already"
    else:
        return worker, hello["facts"]
    _say(sock, {"refused": problem})
    return None, None


def _listed(addresses):
    return ",".join(map(str, addresses)) if isinstance(addresses, list) else "none"


def _difference(worker, theirs, ours):
    """What differs between a worker's facts and the chief's, or None."""
    names = sorted(name for name in theirs.keys() | ours.keys()
                   if theirs.get(name) != ours.get(name))
    if not names:
        return None
    told = "; ".join(f"{name} is {ours.get(name)} at worker 0, {theirs.get(name)} at worker "
                     f"{worker}" for name in names)
    return f"the workers were started differently: {told}"


def _reach(addresses, index, facts, say, deadline, timeout_sec):
    """The others' side of `join`: {0: socket to the chief}."""
    _server(addresses, index).close()
    host, port = addresses[0].rsplit(":", 1)
    say(f"worker {index} of {len(addresses)}: waiting for worker 0 ({addresses[0]})")
    hello = {"worker": index, "workers": addresses, "facts": facts}
    while True:
        sock = error = None
        try:
            sock = _connect(host, int(port))
            _say(sock, hello)
            answer = _hear(sock, max(deadline - time.monotonic(), 0) + 10)
        except OSError as refusal:
            answer, error = None, refusal
        if isinstance(answer, dict) and "welcome" in answer:
            return {0: sock}
        if sock:
            sock.close()
        if isinstance(answer, dict) and "refused" in answer:
            raise UserError(answer["refused"])
        if time.monotonic() > deadline:
            reason = one_line(error) if error else "it does not answer"
            raise UserError(f"worker 0 ({addresses[0]}) could not be reached within "
                            f"{timeout_sec:.0f} seconds ({reason}); start all workers, and see "
                            "that its port is open to this machine")
        time.sleep(0.2)


def _connect(host, port):
    """A socket to the chief. Raises OSError."""
    sock = socket.create_connection((host, port), timeout=10)
    # On one machine, a connection to a port that nobody listens at can be one to itself.
    if sock.getsockname() == sock.getpeername():
        sock.close()
        raise ConnectionRefusedError("nobody listens there")
    return sock


def _say(sock, message):
    """Send one message; who has gone will be missed later."""
    with contextlib.suppress(OSError):
        sock.sendall(json.dumps(message).encode() + b"\n")


def _hear(sock, timeout_sec):
    """One message within so many seconds, else None; not a byte more is read."""
    deadline, line = time.monotonic() + timeout_sec, b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            seen = sock.recv(65536, socket.MSG_PEEK)
            part = sock.recv(seen.find(b"\n") + 1 or len(seen))
        except OSError:
            return None
        if not part:
            return None
        line += part
    try:
        return json.loads(line)
    except ValueError:
        return None


def _hung_up(sock):
    """Whether a worker that was there has gone."""
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
