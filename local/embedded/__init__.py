"""PostgreSQL and Valkey for a machine that has neither. This process starts, watches and stops them.

The programs are in two wheels, which are never imported. All data of the servers is in one data folder.
"""

from local.embedded.errors import EmbeddedError
from local.embedded.servers import EmbeddedServers, Urls, embedded_servers, throwaway_servers

__all__ = ["EmbeddedError", "EmbeddedServers", "Urls", "embedded_servers", "throwaway_servers"]
