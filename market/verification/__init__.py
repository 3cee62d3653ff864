"""Verification: holds a worker's result against its own signature before anything is charged."""
