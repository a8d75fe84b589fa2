"""PostgreSQL: who is on it, who holds whom up, who takes all connections; sessions ended, the limit raised."""
