"""Workers on a Ray cluster: each task runs the same process on the node where it lands."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from typing import Any

from model_zoo.pools import SCRIPTS, End, Running, start_worker, stop_worker
from model_zoo.worker import Order
from optimum_ane.errors import ANEError

_LOCAL = "local"
_PATIENCE = 10.0
"""Seconds that a cluster has to answer."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ClusterError(ANEError, RuntimeError):
    """Ray is not installed, or the cluster cannot be reached."""


def _work(line: str, log: str, threads: int) -> int:
    """What a task does: starts the worker, waits, and takes it along when the task is cancelled."""
    process = start_worker(Order.from_json(line), Path(log), threads)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            stop_worker(process)


def _check_reachable(address: str) -> None:
    """Connects once: Ray itself tries for many minutes without a word.

    Raises:
        ClusterError: Nobody answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # "auto", or a name that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"the Ray cluster {address!r} cannot be reached ({error}); check the address") from error


class RayPool:
    """Tasks on a Ray cluster. optimum-ane is installed on its nodes, and all see the output directory.

    Args:
        address: Of the cluster; `"local"` starts one on this machine.
        slots: How many at once; None takes as many as the cluster has CPUs for.
        threads: CPUs that each task asks for, and threads that it uses.

    Raises:
        ClusterError: Ray is missing, or the cluster cannot be reached.
    """

    def __init__(self, address: str, slots: int | None, threads: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise ClusterError("--ray needs Ray, which is not installed; pip install 'optimum-ane[ray]'") from error
        self._ray: Any = ray
        self._threads = threads
        _check_reachable(address)
        try:
            ray.init(
                address=None if address == _LOCAL else address,
                runtime_env={"py_modules": [str(SCRIPTS / "model_zoo")]},
                include_dashboard=False if address == _LOCAL else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ClusterError(
                f"the Ray cluster {address!r} cannot be reached ({reason}); check the address"
            ) from error
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self.slots = slots or max(1, cpus // threads)
        # One try: what failed here fails again, and what a lost node had begun is for the next run.
        self._task = ray.remote(num_cpus=threads, max_retries=0)(_work)

    def start(self, order: Order, log: Path) -> Running:
        """See `Pool.start`."""
        return _Task(self._ray, self._task.remote(order.to_json(), str(log), self._threads))

    def close(self) -> None:
        """See `Pool.close`; a cluster that was started here is stopped."""
        self._ray.shutdown()


class _Task:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> End | None:
        ready, _ = self._ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return End(self._ray.get(self._reference))
        except self._ray.exceptions.RayError as error:
            # The reason stands at the end of what may be a traceback, in colours.
            reason = _COLOUR.sub("", str(error)).strip().splitlines()[-1]
            return End(None, f"Ray lost the task: {reason}")

    def stop(self) -> None:
        self._ray.cancel(self._reference)
        self._ray.wait([self._reference], timeout=15)
