"""The commands of `worker`, one module a group; `workers.cli` gives them their names."""
