"""Asking a person: links that decide once, what a mail and a page say, decisions and the end of waits.

Below the domains: the rows of what is asked stay with them. A domain declares the wait beside its model
(``models.lifecycle.Wait``), issues links while it writes the mails, and lets the kernel's statements decide.
"""
