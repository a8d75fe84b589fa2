"""Isolation on real kernels: lab hosts with real agents, called as a controller calls them."""
