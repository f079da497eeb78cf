"""Fakes of servers outside of Gristmill."""
