"""Reading files that others may have written or a disk may have damaged: YAML, JSON, pickles, safetensors.

What a file declares is checked before anything of that size is made, and every fault is a `PhysteerError` of one line.
"""
