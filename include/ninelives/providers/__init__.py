"""Providers of data: when they may be drilled, and what their recorded feeds do to the estate when they go wrong."""
