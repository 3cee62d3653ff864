"""The only place that joins ports to adapters: settings in, running programs' parts out.

Decides which adapter stands behind each port, and refuses to start where a service is missing, wrong or another
network's, saying what and how to mend it. Holds no rule of the market. Called by the commands and `market.jobs`.
"""

from market.bootstrap.gateway import GatewayRuntime, build_gateway
from market.bootstrap.jobs import Jobs, build_jobs
from market.bootstrap.services import Services, open_services

__all__ = ["GatewayRuntime", "Jobs", "Services", "build_gateway", "build_jobs", "open_services"]
