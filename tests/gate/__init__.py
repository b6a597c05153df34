"""Cost gates: reports, their comparison, rules, verdicts, and what others read of them."""
