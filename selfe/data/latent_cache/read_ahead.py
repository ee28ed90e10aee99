"""Batches read ahead by threads, in the order in which they were announced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from selfe.seeding import SampleRng

T = TypeVar("T")
Key = tuple[int, ...]


class ReadAhead(Generic[T]):
    """Calls `read(rng)` ahead of time for the batches announced.

    What is read depends on seed and positions alone, so any number of workers, and batches that
    were never announced, give the same.

    Args:
        read: pure, and safe to call from several threads.
        workers: threads, each of which has at most two batches in flight; 0 reads when asked.
    """

    def __init__(self, read: Callable[[SampleRng], T], workers: int) -> None:
        self.read = read
        self._most = 2 * workers
        self._pool = ThreadPoolExecutor(workers, "loader") if workers else None
        self._announced: deque[SampleRng] = deque()
        self._flying: dict[Key, Future[T]] = {}

    def expect(self, upcoming: Iterable[SampleRng]) -> None:
        """Announce the batches to come, in order. Batches that were announced earlier and are not
        among these are dropped."""
        if self._pool is None:
            return
        wanted = {_key(rng): rng for rng in upcoming}
        for key in [key for key in self._flying if key not in wanted]:
            self._flying.pop(key).cancel()
        self._announced = deque(rng for key, rng in wanted.items() if key not in self._flying)
        self._start()

    def __call__(self, rng: SampleRng) -> T:
        """The batch of `rng`; errors of reading are raised here."""
        flying = self._flying.pop(_key(rng), None)
        if flying is None:
            return self.read(rng)
        self._start()
        return flying.result()

    def _start(self) -> None:
        while self._pool is not None and self._announced and len(self._flying) < self._most:
            rng = self._announced.popleft()
            self._flying[_key(rng)] = self._pool.submit(self.read, rng)


def _key(rng: SampleRng) -> Key:
    return (rng.seed, *rng.position.tolist())
