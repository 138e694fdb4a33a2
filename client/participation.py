"""How often a node's devices took part in a run, by their own count.

A device that has reached its cap contributes zero and says nothing: whoever asked cannot tell, and the law of sampling
stays as it is accounted. The cap is the smaller one of what the instruction says and of what the node itself allows, so
that a coordinator which forgets its promise is still held to it.
"""

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

RUNS = 16
"""Runs whose counts a node remembers; the oldest is forgotten first."""


class Participation:
    """Counts by run, for all devices of one node.

    Args:
        devices: how many the node hosts.
        limit: most rounds of one run that any of them joins; None for no limit of its own.
    """

    def __init__(self, devices: int, limit: int | None = None) -> None:
        self._devices = devices
        self._limit = limit
        self._runs: OrderedDict[str, npt.NDArray[np.uint32]] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, run_id: str, devices: npt.NDArray[np.int64], cap: int | None) -> npt.NDArray[np.int64]:
        """Those of `devices` who may still join a round of the run; they are counted.

        Args:
            run_id: of the run.
            devices: indices at the node, rising.
            cap: what the instruction allows; None for no cap.
        """
        limits = [limit for limit in (cap, self._limit) if limit is not None]
        with self._lock:
            if run_id not in self._runs:
                self._runs[run_id] = np.zeros(self._devices, np.uint32)
            counts = self._runs[run_id]
            self._runs.move_to_end(run_id)
            while len(self._runs) > RUNS:
                self._runs.popitem(last=False)
            joining = devices[counts[devices] < min(limits)] if limits else devices
            counts[joining] += 1
        return joining

    def asked(self, run_id: str) -> npt.NDArray[np.uint32]:
        """(devices,) rounds of the run that each joined."""
        with self._lock:
            return self._runs.get(run_id, np.zeros(self._devices, np.uint32)).copy()
