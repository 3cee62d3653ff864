"""Model packages on this machine: fetched, checked, loaded, run in batches."""
