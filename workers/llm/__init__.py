"""Language models behind one protocol: OpenAI-compatible servers and the offline evaluator.

The only room that imports ``openai``, and only once a provider is configured (the import costs a second). It knows
no domain and no database; it is handed plain arguments.
"""
