"""Formats: the forms that a layer can take, one file each."""
