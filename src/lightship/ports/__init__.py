"""Protocols and value types through which the layers above meet; nothing here acts."""
