"""The job folder, the job that torchrun starts on it, its provenance, and the schedulers that start it."""
