"""The assessment store in Python: what the SQL functions of schema ``assessments`` do, for sessions of SQLAlchemy.

Every function works in the caller's transaction and commits nothing. A refusal leaves that transaction usable.
"""
