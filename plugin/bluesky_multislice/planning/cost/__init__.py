"""What a plan costs: memory, exchange, work and time, counted before anything is allocated."""
