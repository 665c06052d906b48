"""One file for each framework that the library is used from."""
