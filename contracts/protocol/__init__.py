"""Everything that market and workers sign, hash or send each other: pure Python, no I/O.

Membership test: would an independent implementation need this byte for byte to interoperate?
"""
