"""Images and label maps on disk become Volumes in memory, and back.

Data in: NIfTI, NRRD, MetaImage and 2D picture files. Data out: Volume (voxels with their geometry),
immutable. The only package that knows SimpleITK and the decoders of Pillow and tifffile. Axes are
`(i, j, k)`, world coordinates LPS in mm.
"""
