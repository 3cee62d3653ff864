"""The only place that joins ports to adapters: settings in, running programs' parts out.

Decides which adapter stands behind each port, and refuses to start where a service is missing, wrong or another
network's, saying what and how to mend it. Holds no rule of the market. Called by the commands and `market.jobs`.
"""
