"""What was measured, in numpy: geometry, frames, flat field, scan, and whether the values are plausible."""
