"""Real PostgreSQL and real Valkey for a machine that has neither: started, watched and stopped by this process.

Two wheels carry the programs; nothing of theirs is imported. Everything they keep lies in one data folder.
"""

from local.embedded.errors import EmbeddedError
from local.embedded.servers import EmbeddedServers, Urls, embedded_servers, throwaway_servers

__all__ = ["EmbeddedError", "EmbeddedServers", "Urls", "embedded_servers", "throwaway_servers"]
