"""Sessions of several speakers, made from recordings of single ones."""
