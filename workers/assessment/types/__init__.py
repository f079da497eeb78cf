"""One file per type of assessment; a file dropped in here is a type, and nothing else is edited."""
