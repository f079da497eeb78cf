"""The leading dispatcher picks due jobs inside every limit, gives them tickets and publishes them in batches."""
