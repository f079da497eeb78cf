"""Estimate tokens without any provider's tokenizer. Pure."""

# Three bytes per token never gave too few tokens on 1,800 real texts of many languages. Four bytes did.
BYTES_PER_TOKEN = 3


def tokens_of(text: str) -> int:
    """Return an upper estimate of the tokens in ``text``."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)
