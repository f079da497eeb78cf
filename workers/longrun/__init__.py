"""One job over many items: cut them into requests, keep many in flight, commit in between, wait, resume.

Below the domains: it imports the kernel's handler surface and knows no table and no domain.
"""
