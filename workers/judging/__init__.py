"""Questions to a model and their answers: criteria, prompts, answer types, scores, and rules that need no provider.

Below the domains: it imports only ``runtime.handler`` and ``runtime.refusals``, and knows no job, table or provider.
"""
