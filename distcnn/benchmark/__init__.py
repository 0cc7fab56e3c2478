"""Where a step's time and memory go: what ``python -m distcnn.benchmark`` measures, prints and
draws. Training never imports it.
"""
