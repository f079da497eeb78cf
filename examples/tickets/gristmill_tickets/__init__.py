"""Tickets of customers: a model says how urgent each one is."""
