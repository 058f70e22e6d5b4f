"""What moves the object against its gradient."""
