"""What must stand beside figures that rules made, wherever they are shown."""

OFFLINE_EMBEDDER = "offline-hash-v1"
WORDS = "compares words, not meanings"
