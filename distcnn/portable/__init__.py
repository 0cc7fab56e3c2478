"""Arithmetic with the same bits on every machine: elementary functions, and grids on which products
of matrices are exact. NumPy only.
"""
