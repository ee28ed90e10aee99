"""What ends a run early, in a module of its own: the command line, which gives each an exit code,
must not load torch to know them."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """A signal asked the run to stop, and it did after saving."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class PeerError(Exception):
    """Another process failed, and says why itself; this one only has to end."""


class WorkerDied(Exception):
    """A worker ended before its work was done."""
