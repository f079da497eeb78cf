"""Garbage collection of a process that serves many jobs or requests."""

import gc


def reduce_garbage_collection() -> None:
    """Exclude the objects loaded so far from garbage collection, and collect less often.

    Reference counting frees the objects of jobs and requests. A process keeps more than 100,000 objects of its
    libraries; collecting through them took a third of a busy worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
