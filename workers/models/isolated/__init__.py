"""Models of strangers, each in a sandboxed process of its own."""
