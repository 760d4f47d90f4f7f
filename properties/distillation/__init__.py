"""Distillation: a student learns a teacher's distribution."""
