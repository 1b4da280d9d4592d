"""Formats on disk: tar scanning, corpora, the HDF5 store, artefacts, atomic writing. FORMAT.md specifies them."""
