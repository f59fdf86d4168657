"""The workers of one training: their addresses, and how a process ends if others are lost.

This module needs no TensorFlow; `dnnlib.tflib.connection` connects the workers.
"""

import json
import re

from dnnlib.util import UserError, one_line

LOST_STATUS = 3  # exit status of a worker that has lost another one
JOIN_SEC = 600  # how long to wait for workers that are not started yet
SILENT_SEC = 20  # a worker that does not answer for so long is lost


class SharedError(UserError):
    """A UserError that all workers raise at the same place, so none must report it to the others.
    """


def find_workers(workers: str | None, index: int | None,
                 environment: str | None) -> tuple[list[str] | None, int]:
    """Return the addresses of all workers and the place of this one in the list.

    Args:
        workers: 'host:port,host:port,...' or None.
        index: of this process, or None.
        environment: the value of TF_CONFIG, or None.

    Returns:
        (addresses, index), or (None, 0) if there is no other worker.

    Raises:
        UserError: for anything that is not one list of different addresses and a place in it.
    """
    if workers is None and index is None:
        addresses, index = _tf_config(environment) if environment else ([], 0)
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
    """Return (addresses, index) from TF_CONFIG; a chief that is listed separately is number 0."""
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
        count = len(cluster.get(kind, []))
        if not 0 <= index < count:
            raise UserError(f"TF_CONFIG: there is no {kind} {index}: it lists {count}, counted "
                            "from 0")
        return [*chiefs, *workers], index + (len(chiefs) if kind == "worker" else 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG: {type(error).__name__}: {one_line(error)}; expected JSON such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
            '"index": 0}}') from None


def _check_addresses(addresses, option):
    """Raise UserError if an address is not host:port, or is given twice."""
    for address in addresses:
        match = isinstance(address, str) and re.fullmatch(r"[\w.-]+:(\d{1,5})", address)
        if not match or not 1 <= int(match[1]) <= 65535:
            raise UserError(f"{option}: {address!r}: expected host:port, such as 10.0.0.1:2222")
        if addresses.count(address) > 1:
            raise UserError(f"{option}: {address} is given twice; each worker has a port of its "
                            "own")
