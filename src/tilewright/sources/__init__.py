"""Windows of an image that is never held as a whole, whatever it is stored in."""
