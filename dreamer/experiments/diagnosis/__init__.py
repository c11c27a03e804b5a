"""Diagnosis of unhealthy runs."""
