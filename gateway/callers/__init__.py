"""Who calls: API keys and tokens, their scopes, and the transactions in which a caller acts."""
