"""Inference: the one-request use case, from a paid request to an answer with a receipt."""
