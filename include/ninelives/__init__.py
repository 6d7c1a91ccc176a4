"""Ninelives keeps AI services available: declare an estate, compile its guard-rails, prove them."""

__version__ = "0.1.0"
