"""The assessment store in Python: the SQL functions of schema ``assessments`` for SQLAlchemy sessions.

Every function works in the caller's transaction and commits nothing. After a refusal the transaction can continue.
"""
