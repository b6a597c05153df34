"""What a job, a trace or a ledger comes to, before it does: the same limits and prices, on a virtual clock."""
