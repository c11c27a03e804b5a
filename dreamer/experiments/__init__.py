"""Measurements on top of training: benchmarks, exams, ablations, reports."""
