"""`python -m ratelimit` is `ratecard`."""

from .cli import main

main()
