"""Processes that work for this one, and end with it."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def pool(workers: int) -> ProcessPoolExecutor:
    """Workers that are started anew (a fork would copy the threads of whoever calls), leave Ctrl-C to this process and end when it is killed."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=leave_with_parent)


def leave_with_parent() -> None:
    """A worker ends when the process that started it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
