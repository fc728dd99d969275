"""Side-by-side measurements of labkit: `make bench`."""
