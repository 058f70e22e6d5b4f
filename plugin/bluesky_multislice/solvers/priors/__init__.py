"""What is assumed of a volume: regularisers, bounds and the support."""
