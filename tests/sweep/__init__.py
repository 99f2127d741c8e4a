"""What conversion and maps cover, measured: one tiny model of every family that holds attention, ``python -m tests.sweep``.

Nothing here asks conversion what it found: which attentions a model has, and what their maps are, is seen from the softmaxes that run.
"""
