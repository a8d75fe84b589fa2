"""Each built-in runbook, played on real hosts with the real trouble that it is for."""
