"""What a reconstruction starts from: inverse retrievals of a first volume and probe, and of the rotation axis."""
