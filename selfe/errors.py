"""Exceptions that end a run early. They have a module of their own because the command line, which
gives each an exit code, must not load torch for them."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """A signal asked the run to stop; it stopped after saving."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class PeerError(Exception):
    """Another process failed and reports the reason; this one only ends."""


class WorkerDied(Exception):
    """A worker ended before its work was done."""
