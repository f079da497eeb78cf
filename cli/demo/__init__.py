"""The demonstration: score real profiles, ingest sample files and assess a server on this machine; show the results."""
