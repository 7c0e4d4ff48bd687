"""How a training is stopped: SIGTERM and Ctrl-C are answered between two steps, by a checkpoint."""

import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType

from roi import distributed
from roi.data.dataset import Batch
from roi.progress import say


class Stopped(BaseException):
    """A signal came while the main process waited for a batch: it stands between two steps."""


class Stop:
    """SIGTERM or Ctrl-C asks for a stop at the next safe place; the second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.waiting = False  # for a batch
        # Several processes agree after every `every` steps, about once a second: each agreement costs a round trip.
        self.steps = self.every = 1
        self.began = time.perf_counter()

    def __enter__(self) -> "Stop":
        # Torchrun, schedulers and `kill` send SIGTERM, a terminal sends SIGINT.
        self.before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        say("stopping after this step; the checkpoint will be saved")
        if self.waiting:
            self.waiting = False
            raise Stopped

    def before_each(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches. A signal ends the wait for the next one (Stopped), however long a disk or a worker hangs.

        Not with several processes: they stop after the same step.
        """
        source = iter(batches)
        while True:
            # An exception out of a signal handler is safe only here: nothing is half done while a batch is waited for.
            self.waiting = distributed.world() == 1
            try:
                if self.waiting and self.signal:
                    raise Stopped
                batch = next(source, None)
            finally:
                self.waiting = False
            if batch is None:
                return
            yield batch

    def agreed(self) -> int:
        """The signal, the same one on all processes at the same step; 0 while none came."""
        if distributed.world() == 1:
            return self.signal
        self.steps -= 1
        if self.steps > 0:
            return 0
        rate = self.every / max(time.perf_counter() - self.began, 1e-3)
        answers = distributed.all_gather_objects((self.signal, rate))
        self.signal = max(number for number, _ in answers)
        # The slowest process says how many steps a second has.
        self.steps = self.every = max(1, int(min(rate for _, rate in answers)))
        self.began = time.perf_counter()
        return self.signal
