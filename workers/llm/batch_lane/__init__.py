"""Answers for half the price: questions that may wait are kept, sent together, and answered within a day.

A job in the lane runs twice. Its first run keeps its questions here (``lane.py``) and the job sleeps until shortly
before its time is over. ``workers.batching`` sends batches of such questions and takes the answers; then the job is
woken, and its second run finds them.
"""
