"""A whole market on one machine: embedded services, deployed contracts and the real programs as processes."""
