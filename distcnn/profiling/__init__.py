"""Listeners to spans: a timeline (``--trace``), and the seconds of each part of a step."""
