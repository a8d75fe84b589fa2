"""Typed actions on this host: planned, applied step by step on record, verified, taken back. One action, one file.

Imported by server only; knows no wire. Leaves to others: who may ask for what (server, policy).
"""
