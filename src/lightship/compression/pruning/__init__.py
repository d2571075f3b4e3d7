"""Makes models smaller by leaving parts out: whole blocks (depth), FFN channels and KV groups (width)."""
