"""Text of experiments that are over in seconds."""

TINY = """
[task]
name = "tiny"
spatial_dims = 2
channels = [{ name = "grey" }]
labels = { organ = 1, lesion = 2 }
[model]
channels = [4, 8]
[training]
patch_size = [16, 16]
cpu_threads = 1
"""
