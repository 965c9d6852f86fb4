"""User-space half of HostPolicy: rule bitmaps, map contents."""
