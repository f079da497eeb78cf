"""Questions to a model and their answers: criteria, prompts, answer types, scores, rules for use without a provider.

Below the domains: it imports the kernel's handler surface and knows no job, no table and no provider.
"""
