"""Signals, failures and stalls: what ends a run early, and how that is reported.

Nothing is imported here, because ``early`` runs before NumPy is known to work.
"""
