"""Kernels on trial: every attention and every loss that this machine has, against float64.

A trainer is judged by its run, whatever kernel computes in it. Here kernels stand alone, at sizes that trainers use and
a run of the witness does not reach: a vocabulary of 128,256, sliding windows, grouped heads, left padding.
"""
