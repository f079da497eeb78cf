"""The leading dispatcher: it picks due jobs inside every limit, gives tickets and publishes batches."""
