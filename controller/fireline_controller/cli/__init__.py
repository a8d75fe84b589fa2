"""The operator's command line: one file a noun. A client of the Control service like any other; may be imported by
`__main__` only. Heavy imports are late, so that `--help` and a mistyped command answer at once.
"""
