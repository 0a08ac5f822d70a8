"""The learning-rate curves by family; `autowu.schedules` has them all."""
