"""One file per type of assessment. A new file here adds a type; no other file needs a change."""
