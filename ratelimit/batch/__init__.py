"""The Batch API: jobs larger than the queue of enqueued tokens, split, submitted as room comes free, and collected.

`split.py` packs requests (pure), `read.py` reads a job into columns, `plan.py` says what a job comes to; `journal.py`
keeps every step of a run, `driver.py` takes them.
"""
