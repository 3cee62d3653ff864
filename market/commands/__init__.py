"""The `market` commands: thin shells that parse options, call the library and print text or JSON."""

from contracts.starting import start_quickly

start_quickly()
