"""What must be printed beside results of the offline embedder."""

OFFLINE_EMBEDDER = "offline-hash-v1"
OFFLINE_EMBEDDER_NOTE = "compares words, not meanings"
