"""DICOM of a hospital becomes Volumes and masks: folder -> series -> Volume; SEG and RTSTRUCT -> segments.

Data in: files. Data out: frozen dataclasses of ours; what pydicom reads stays in here. Geometry is taken from
positions and orientations of the slices, never from their thickness or number. World coordinates LPS in mm.
"""
