"""User-space half of ServiceLB: consistent hashing, packed model, map contents."""
