"""The demonstration: a whole paid inference, step by step, on real parts."""
