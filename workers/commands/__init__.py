"""The commands of `worker`, one module a group; `workers.cli` gives them their names."""

from contracts.starting import start_quickly

start_quickly()
