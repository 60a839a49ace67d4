"""DICOM of a hospital becomes cases that medseg trains on: images and labels as NIfTI, and a list of them.

In: a folder of DICOM or a query of the PACS, a task, the site's key. Out: a folder with manifest.csv, in which no name,
number, date, identifier or path of the source stands.
"""
