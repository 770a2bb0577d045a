"""Teachers opened and asked: their heads, in batches, on one device or sharded by ZeRO-3."""
