"""Ask a person to decide: links that decide once, the texts of mails and pages, decisions, and the end of waits.

Below the domains: a domain keeps the rows that a question is about. It declares the wait with its model
(``models.lifecycle.Wait``) and issues the links for its mails. The kernel's statements decide.
"""
