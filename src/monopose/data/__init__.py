"""Data sets: BOP folders in and out, COCO files, synthetic samples. Import the file you need, e.g. `monopose.data.bop`."""
