"""Adapters: the only modules that talk to the chain, the database, Redis and Celery; each implements a port."""
