"""Benches: the product and the floor beneath it, one after the other in one run, so that ratios mean something.

`python -m tests.bench.run --help`. Stand-ins for agents are written in C, so that the controller is what is measured.
"""
