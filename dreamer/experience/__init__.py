"""Environment steps to replay rows, and replay rows to training batches."""
