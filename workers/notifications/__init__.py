"""Tell by HTTP that jobs have ended: the handler of deliveries, and the use-cases on endpoints and deliveries.

Messages are those of Standard Webhooks 1.0.0. A delivery is a job; the database makes it of a notice.
"""
