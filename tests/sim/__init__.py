"""The simulator: one seed gives an account, traffic, a network and its faults, in virtual time; an auditor that shares
no code with the product says what was allowed.

    python -m tests.sim --seeds 10000 --jobs 2      run many; failing seeds are printed
    python -m tests.sim --seed 4711 --trace         replay one, and see everything that happened

`world.py` draws what happens from the seed, `meters.py` is how a server counts (exact integers), `server.py` answers,
`auditor.py` watches and judges, `direct.py` drives the limiter itself, `wire.py` drives the real async transport.
"""
