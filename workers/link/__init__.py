"""A node's own end of the link lane: one connection to somebody else's gateway, and a broker and workers behind it."""
