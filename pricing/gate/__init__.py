"""Cost gates: what a change costs, which rules it breaks, and why. Pure: reports in, a verdict out.

`report.py` is what is known of a job's cost, as a file that two runs can compare; `booked.py` sums a ledger for one;
`change.py` splits the difference of two; `rules.py` reads what is allowed, `judge.py` says what is not; `formats/` is
what others read of it.
"""
