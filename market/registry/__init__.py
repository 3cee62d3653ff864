"""Registry: listings, workers, channels and offers as confirmed on chain or announced by live workers."""
