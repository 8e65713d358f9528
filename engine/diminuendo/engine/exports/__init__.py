"""Exports: a compressed network as files that need none of its code, run and compared before anyone relies on them.

`forms` imports no torch; the rest does.
"""
